"What several tests share. Nothing here needs the network."
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]

def run(*args, cwd=ROOT, env=None): # arguments for Python, e.g. '-c', 'print(1)'
    "What a new Python process prints; if it fails, the test fails with the end of what it said."
    made = subprocess.run([sys.executable, *args], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, (made.stdout + made.stderr)[-6000:]
    return made.stdout.strip()

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
