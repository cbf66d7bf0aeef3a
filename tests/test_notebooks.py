"""Every notebook runs from top to bottom.

The library's notebooks run where they are. Those that use the library run as they are too, not a letter replaced, in a
copy of their folder: on phantoms, with a small budget that they choose themselves because FASTSEG_PROFILE=small. One of
them also runs in Jupyter, as a student opens it."""
import re, shutil
from pathlib import Path
import pytest
from conftest import ROOT, run, run_notebook

USED = sorted(o for d in ('baselines', 'experimental', 'data') for o in (ROOT/d).glob('*.ipynb'))
here = lambda o: f'{o.parent.name}/{o.name}'

@pytest.fixture
def places(tmp_path):
    "Models and results of a test go to a folder of its own."
    return dict(FASTSEG_MODELS_PATH=str(tmp_path/'models'), FASTSEG_RESULTS_PATH=str(tmp_path/'results'))

@pytest.mark.parametrize('path', sorted((ROOT/'nbs').glob('*.ipynb')), ids=here)
def test_library_notebook(path, places, tmp_path):
    "In a process of its own: nothing is left over from the notebook before."
    run_notebook(path, places, tmp_path/'said.txt')

def few_phantoms(number, folder):
    "Enough for fold 0 to keep two cases apart, and no more: phantoms of a head take a second each."
    from fastseg.phantom import make_phantom
    return make_phantom(number, folder, n_train=6, n_test=1).parent

@pytest.fixture(scope='session')
def atria(phantoms):
    "Phantoms of hearts beside the others, under the name that the real left atria have."
    from fastseg.phantom import make_phantom
    made = make_phantom('Heart', phantoms.path/'more', n_train=6, n_test=0, seed=1)
    return made.rename(phantoms.path/'Task102_LeftAtrium').parent

def test_there_is_a_baseline_for_every_task():
    from fastseg.task import TASKS
    found = [o.name for o in USED if o.parent.name == 'baselines']
    assert sorted(o[:2] for o in found) == sorted(TASKS), f'one notebook per task, named NN_name.ipynb: {", ".join(found)}'

def copied(path, folder): # the copy of the notebook
    "A notebook with what lies beside it, in a folder of its own"
    place = folder/path.parent.name
    place.mkdir()
    shutil.copy(ROOT/'settings.ini', folder)
    for beside in ('records', 'challenge'):
        if (path.parent/beside).is_dir(): shutil.copytree(path.parent/beside, place/beside)
    return Path(shutil.copy(path, place))

@pytest.mark.parametrize('path', USED, ids=here)
def test_notebook_on_phantoms(path, places, atria, tmp_path):
    "A baseline gets six phantoms of its own task (its file's number), all others Hippocampus, Heart and left atria."
    data = atria if path.parent.name != 'baselines' else few_phantoms(re.match(r'\d+', path.name)[0], tmp_path/'data')
    env = dict(places, FASTSEG_PROFILE='small', FASTSEG_DATA_PATH=str(data))
    run_notebook(copied(path, tmp_path), env, tmp_path/'said.txt')

def test_notebook_in_jupyter(places, tmp_path):
    made = copied(ROOT/'baselines'/'04_hippocampus.ipynb', tmp_path)
    env = dict(places, FASTSEG_PROFILE='small', FASTSEG_DATA_PATH=str(few_phantoms(4, tmp_path/'data')))
    run('-m', 'nbconvert', '--to', 'notebook', '--execute', '--inplace', made.name, cwd=made.parent, env=env)
