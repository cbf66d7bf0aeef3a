"The corners of `settings` that a notebook, which lives inside the clone, cannot stand in."
import os, pickle, subprocess, sys
import pytest
from conftest import ROOT
from fastseg.settings import FastsegError, data_path, write_json, read_json

def test_relative_path_starts_at_settings_ini(tmp_path, monkeypatch):
    (tmp_path/'settings.ini').write_text('[DEFAULT]\ndata_path = scans\n')
    (tmp_path/'deep'/'er').mkdir(parents=True)
    monkeypatch.chdir(tmp_path/'deep'/'er'); monkeypatch.delenv('FASTSEG_DATA_PATH', raising=False)
    assert data_path() == tmp_path/'scans'
    monkeypatch.setenv('FASTSEG_DATA_PATH', '../elsewhere')
    assert data_path() == tmp_path.parent/'elsewhere'
    assert not data_path().exists()

def test_outside_a_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.delenv('FASTSEG_DATA_PATH', raising=False)
    assert data_path() == ROOT/'data'
    monkeypatch.setenv('FASTSEG_DATA_PATH', 'here')
    assert data_path() == tmp_path/'here'

def test_settings_of_another_project_are_passed_over(tmp_path, monkeypatch):
    (tmp_path/'settings.ini').write_text('[DEFAULT]\ndata_path = scans\n')
    (tmp_path/'other').mkdir(); (tmp_path/'other'/'settings.ini').write_text('[server]\nport = 80\n')
    monkeypatch.chdir(tmp_path/'other'); monkeypatch.delenv('FASTSEG_DATA_PATH', raising=False)
    assert data_path() == tmp_path/'scans'

def test_no_settings_at_all(tmp_path):
    "A copy of the package with no settings.ini anywhere above it names both ways out."
    (tmp_path/'fastseg').mkdir()
    for o in '__init__.py', 'settings.py': (tmp_path/'fastseg'/o).write_text((ROOT/'fastseg'/o).read_text())
    code = 'from fastseg.settings import *\ntry: data_path()\nexcept FastsegError as e: print(e)'
    env = {k:v for k,v in os.environ.items() if not k.startswith('FASTSEG_')}
    said = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True).stdout # a bare environment
    assert 'FASTSEG_DATA_PATH' in said and 'settings.ini' in said and said.count('\n') == 1

def test_error_survives_a_worker_process():
    assert str(pickle.loads(pickle.dumps(FastsegError('a', 'b', 'c')))) == 'found a; expected b; c'

def test_write_json(tmp_path):
    import numpy as np
    path = write_json(tmp_path/'new'/'a.json', {'a': np.float32(1), 'b': np.arange(2), 'c': [float('inf')], 'd': 'µ', 'e': True})
    assert read_json(path) == {'a': 1.0, 'b': [0, 1], 'c': [None], 'd': 'µ', 'e': True}
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask # colleagues may read it
    assert [o.name for o in path.parent.iterdir()] == ['a.json']
    with pytest.raises(FastsegError, match='cannot be written'): write_json(path/'below-a-file.json', {})
