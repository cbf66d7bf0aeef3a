"What several tests share. Nothing here needs the network."
import multiprocessing, os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]

# No test cuts the power: that files have reached the disk is not waited for, a fifth of the time of a short run. (A
# process that runs a notebook reads this file, too, since `_run_here` stands in it.)
os.fsync = lambda file: None

def run(*args, cwd=ROOT, env=None): # arguments for Python, e.g. '-c', 'print(1)'
    "What a new Python process prints; if it fails, the test fails with the end of what it said."
    made = subprocess.run([sys.executable, *args], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, (made.stdout + made.stderr)[-6000:]
    return made.stdout.strip()

# PyTorch, fastai and fastMONAI take some seconds to import. One process does it once, and each notebook runs in a fork of
# it: as fresh as a new one, and at once. Where there is no such thing (Windows), it is a new process.
_METHOD = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
_START = multiprocessing.get_context(_METHOD)
_START.set_forkserver_preload(['nbdev.test', 'fastai.vision.all', 'fastMONAI.vision_all'])

def _run_here(path, env, said, method):
    "In the new process: what it prints goes to a file, and its exit code is 1 if a cell fails."
    multiprocessing.set_start_method(method, force=True) # for processes of its own, as if it were not one
    with open(said, 'w') as file:
        for stream in 1, 2: os.dup2(file.fileno(), stream)
    os.environ.update(env)
    import numpy as np
    from nbdev.test import test_nb
    np.random.seed() # a fork has the random numbers of its parent
    sys.exit(not test_nb(path)[0])

def run_notebook(path, env, said, minutes=10): # `said`: a file for what it prints
    "Runs a notebook in a process of its own; if a cell fails, the test fails with the end of what was said."
    process = _START.Process(target=_run_here, args=(path, env, said, multiprocessing.get_start_method()))
    process.start()
    process.join(60*minutes)
    if process.is_alive(): process.kill()
    assert process.exitcode == 0, said.read_text()[-6000:]

def is_one_line(error): # a FastsegError
    "Does it say in one line what was found, what was expected and what to do?"
    said = str(error)
    is_line = said.startswith('found ') and '; expected ' in said and '\n' not in said
    return is_line and all((error.found, error.expected, error.fix))

@pytest.fixture(scope='session', autouse=True)
def own_places(tmp_path_factory):
    "Nothing goes into the clone, and nothing that an earlier session has kept is believed."
    with pytest.MonkeyPatch.context() as places:
        for o in 'MODELS', 'RESULTS': places.setenv(f'FASTSEG_{o}_PATH', str(tmp_path_factory.mktemp('places')/o.lower()))
        yield

@pytest.fixture(scope='session')
def real_data():
    "The folder with real cases in MSD layout: FASTSEG_TEST_DATA, else ../shared/data; without it the test is skipped."
    path = ROOT/os.environ.get('FASTSEG_TEST_DATA', '../shared/data')
    if not path.is_dir(): pytest.skip(f'no real cases at {path}: set FASTSEG_TEST_DATA to a folder that has some')
    return path.resolve()

class Phantoms:
    "A folder of phantom tasks; each is made when it is first asked for."
    def __init__(self, path): self.path, self.made = path, {}
    def __call__(self, name): # e.g. 'Hippocampus' or '02'
        "The phantom task `name` as a folder in MSD layout."
        from fastseg.task import Task
        from fastseg.phantom import make_phantom
        number = Task.find(name).number
        if number not in self.made: self.made[number] = make_phantom(number, self.path)
        return self.made[number]

@pytest.fixture(scope='session')
def phantoms(tmp_path_factory):
    "Phantoms of Hippocampus and Heart, made once: `phantoms.path` is their folder, `phantoms('Spleen')` adds another."
    made = Phantoms(tmp_path_factory.mktemp('phantoms'))
    for o in 'Hippocampus', 'Heart': made(o)
    return made
