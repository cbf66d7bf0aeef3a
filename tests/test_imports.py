"Modules import only modules above them and only public names, and what was trained is used without what trained it."
import ast, json, re
import pytest
from conftest import ROOT, run

ORDER = ('settings pictures task space shapes anatomy phantom slices show check dataset evaluate question verdict power compare worth '
    'fingerprint plan prepare dataloaders model machine record run predict validate report learner train transfer '
    'unfreeze together baseline trials study gain_map bench label doctor cli all').split()
MODULES = sorted(o for o in (ROOT/'fastseg').glob('*.py') if not o.name.startswith('_'))
HEAVY = 'torch', 'fastai', 'fastMONAI', 'monai', 'torchio', 'pandas', 'matplotlib'

def imported(source): # a module's text
    "The fastseg modules that a module imports, wherever in it the import stands."
    for o in ast.walk(ast.parse(source)):
        if isinstance(o, ast.Import): names = [a.name for a in o.names]
        elif isinstance(o, ast.ImportFrom):
            full = '.'.join(filter(None, ('fastseg' if o.level else '', o.module)))
            names = [f'fastseg.{a.name}' for a in o.names] if full == 'fastseg' else [full]
        else: continue
        for name in names:
            if name.startswith('fastseg.'): yield name.split('.')[1]

@pytest.mark.parametrize('path', MODULES, ids=lambda o: o.stem)
def test_one_way(path):
    assert path.stem in ORDER, f'{path.stem} has no place in the order of modules: {ORDER}'
    above = ORDER[:ORDER.index(path.stem)]
    wrong = sorted(set(imported(path.read_text())) - set(above) - {'__version__'})
    assert not wrong, f'{path.stem} imports {wrong}; only {above} are above it'

def bound(source): # a module's text
    "Names that a module imports from fastseg, and how often each is used in it."
    tree = ast.parse(source)
    names = [(a.asname or a.name) for o in ast.walk(tree) if isinstance(o, ast.ImportFrom)
        and ((o.module or '').startswith('fastseg') or o.level) for a in o.names]
    used = [o.id for o in ast.walk(tree) if isinstance(o, ast.Name)]
    return {name: used.count(name) for name in names}

@pytest.mark.parametrize('path', MODULES, ids=lambda o: o.stem)
def test_no_private_name_crosses_a_wall(path):
    private = [o for o in bound(path.read_text()) if o.startswith('_') and o != '__version__']
    assert not private, f'{path.stem} imports {private}: what two modules need is public, or belongs into one of them'

@pytest.mark.parametrize('path', [o for o in MODULES if o.stem != 'all'], ids=lambda o: o.stem)
def test_nothing_is_imported_only_to_be_passed_on(path):
    idle = [name for name, n in bound(path.read_text()).items() if not n and name not in ('*', '__version__')]
    assert not idle, f'{path.stem} imports {idle} and does not use it'
    assert '_all_ =' not in path.read_text(), 'every name is exported where it is defined'

@pytest.mark.parametrize('path', MODULES, ids=lambda o: o.stem)
def test_no_star(path): assert path.stem == 'all' or '*' not in bound(path.read_text()), 'a reader must see where names come from'

def test_the_test_sees_every_kind_of_import():
    text = 'import fastseg.a\nfrom fastseg.b import *\ndef f():\n  from fastseg import c\n  from . import d\n  from .e import x'
    assert sorted(imported(text)) == list('abcde')

def test_notebooks_are_numbered_in_that_order():
    found = [re.search(r'^#\s*\|\s*default_exp (\w+)', c, re.M) for o in sorted((ROOT/'nbs').glob('*.ipynb'))
        for c in (''.join(c['source']) for c in json.loads(o.read_text())['cells'])]
    names = [o[1] for o in found if o]
    assert names == [o for o in ORDER if o in names]

def loaded(module): return run('-c', f'import sys, {module}; print(*(o for o in {HEAVY} if o in sys.modules))')

def test_import_fastseg_is_instant():
    assert loaded('fastseg') == ''
    assert min(float(run('-c', 'import time; t = time.perf_counter(); import fastseg; print(time.perf_counter()-t)')) for _ in range(3)) < .2

@pytest.mark.parametrize('name', [o for o in ('settings', 'task', 'dataset', 'cli') if (ROOT/f'fastseg/{o}.py').exists()])
def test_light_modules_load_nothing_heavy(name): assert loaded(f'fastseg.{name}') == ''

@pytest.mark.parametrize('name', ['run', 'predict', 'validate', 'report', 'evaluate', 'compare'])
def test_a_run_is_used_without_what_trained_it(name):
    assert not {'fastai', 'fastMONAI', 'torchio'} & set(loaded(f'fastseg.{name}').split())
