"""Every notebook runs from top to bottom.

The library's notebooks run where they are. Those that use the library run as they are too, not a letter replaced, in a
copy of their folder: on phantoms, with a small budget that they choose themselves because FASTSEG_PROFILE=small."""
import re, shutil
import pytest
from conftest import ROOT, run

USED = sorted(o for d in ('baselines', 'experimental', 'data') for o in (ROOT/d).glob('*.ipynb'))
here = lambda o: f'{o.parent.name}/{o.name}'

@pytest.fixture
def places(tmp_path):
    "Models and results of a test go to a folder of its own."
    return dict(FASTSEG_MODELS_PATH=str(tmp_path/'models'), FASTSEG_RESULTS_PATH=str(tmp_path/'results'))

@pytest.mark.parametrize('path', sorted((ROOT/'nbs').glob('*.ipynb')), ids=here)
def test_library_notebook(path, places):
    "In a process of its own, as a student opens it: nothing is left over from the notebook before."
    run('-c', f'from nbdev.test import nbdev_test as f; f({str(path)!r}, n_workers=0)', env=places)

@pytest.mark.parametrize('path', USED, ids=here)
def test_notebook_on_phantoms(path, places, phantoms, tmp_path):
    "A baseline needs its own task (its file's number), all others Hippocampus and Heart, which are always there."
    if path.parent.name == 'baselines': phantoms(re.match(r'\d+', path.name)[0])
    folder = tmp_path/path.parent.name
    folder.mkdir()
    for o in ROOT/'settings.ini', path: shutil.copy(o, tmp_path if o.suffix == '.ini' else folder)
    env = dict(places, FASTSEG_PROFILE='small', FASTSEG_DATA_PATH=str(phantoms.path))
    run('-m', 'nbconvert', '--to', 'notebook', '--execute', '--inplace', path.name, cwd=folder, env=env)
