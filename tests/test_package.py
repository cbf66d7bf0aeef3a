"What is installed is what settings.ini says, and constraints.txt covers it."
import configparser, os, shutil, subprocess, sys
from importlib.metadata import distribution
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from conftest import ROOT
import fastseg

def settings():
    ini = configparser.ConfigParser(); ini.read(ROOT/'settings.ini')
    return ini.defaults()

def pins(python='3.11'):
    "Name -> version that constraints.txt asks of that Python."
    reqs = [Requirement(o) for o in (ROOT/'constraints.txt').read_text().splitlines() if o and not o.startswith('#')]
    return {canonicalize_name(o.name): next(iter(o.specifier)).version for o in reqs
        if not o.marker or o.marker.evaluate({'python_version': python})}

def test_distribution():
    dist, cfg = distribution('fastseg3d'), settings()
    assert dist.version == fastseg.__version__ == cfg['version']
    assert [(o.name, o.value) for o in dist.entry_points] == [('fastseg', 'fastseg.cli:main')]
    needs = [Requirement(o) for o in dist.requires]
    run_time = {o.name for o in needs if not o.marker}
    assert run_time == {Requirement(o).name for o in cfg['requirements'].split()}
    assert not run_time & {'nbdev', 'execnb', 'jupyterlab', 'pytest'}, 'development tools do not belong to the run time'

@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
def test_constraints_cover_the_requirements(python):
    found = pins(python)
    for o in map(Requirement, (settings()['requirements'] + ' ' + settings()['dev_requirements']).split()):
        assert o.specifier.contains(found[canonicalize_name(o.name)]), f'{o}: constraints.txt has {found[canonicalize_name(o.name)]}'

def test_constraints_hold_on_every_platform():
    assert not [o for o in pins() if o.startswith(('nvidia-', 'cuda-', 'triton', 'fastseg', 'setuptools'))]

@pytest.mark.skipif(not shutil.which('make') or not shutil.which('sh'), reason='no make on this machine')
def test_make_says_what_it_misses(tmp_path):
    "On a machine whose Pythons are too old, one line says so, and no half-made .venv stays behind."
    for o in 'Makefile', 'settings.ini', 'setup.py', 'pyproject.toml', 'constraints.txt': shutil.copy(ROOT/o, tmp_path)
    tools = tmp_path/'bin'; tools.mkdir()
    for o in 'sh', 'sed', 'touch', 'echo': os.symlink(shutil.which(o), tools/o)
    (tools/'python3').write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    (tools/'python3').chmod(0o755)
    made = subprocess.run([shutil.which('make'), 'demo'], cwd=tmp_path, env={'PATH': str(tools)}, capture_output=True, text=True)
    assert made.returncode and made.stderr.startswith('found Python 3.9.1; expected Python 3.10 to 3.13 with its venv module; install')
    assert not (tmp_path/'.venv').exists()
