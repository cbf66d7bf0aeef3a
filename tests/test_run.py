"A run that is killed goes on: after any file operation, while it is scored, and never twice at once"
import os, subprocess, sys
import pytest, torch
from fastseg.baseline import train_baseline
from fastseg.fingerprint import fingerprint
from fastseg.phantom import make_phantom
from fastseg.plan import Plan, make_plan
from fastseg.record import Terms
from fastseg.run import Run, begin_run
from fastseg.settings import FastsegError, quiet, write_json
from fastseg.task import Task
from fastseg.train import measure, train_run

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Phantoms, a small plan with exact arithmetic, its timing, and a run that nobody interrupted"
    root, threads = tmp_path_factory.mktemp('run'), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as mp, quiet():
        for o in 'MODELS', 'RESULTS': mp.setenv(f'FASTSEG_{o}_PATH', str(root/o.lower()))
        task = Task.from_folder(make_phantom('Hippocampus', root, n_train=5, n_test=0))
        plan = make_plan(fingerprint(task)).change(features=[4, 8, 16], patch_size=[16, 16, 16], batch_size=2, arithmetic='fp32')
        plan, timing = measure(task, plan, Terms(device='cpu'))
        terms = Terms(steps=9, device='cpu')
        whole = train_run(task, plan, timing, out=root/'whole', terms=terms)
        yield dict(root=root, task=task, plan=plan, timing=timing, terms=terms, whole=whole)
    torch.set_num_threads(threads)

def train(small, out, **more):
    with quiet(): return train_run(small['task'], small['plan'], small['timing'], out=out, terms=small['terms'], **more)

def test_the_same_again(small, tmp_path):
    "The same seed gives the same weights to the last bit, in a process of its own too; another seed gives others"
    code = f"""
import torch; torch.set_num_threads(1)
from fastseg.plan import Plan; from fastseg.record import Terms; from fastseg.task import Task; from fastseg.train import train_run
task, plan = Task.from_folder({str(small['root']/'Task04_Hippocampus')!r}), Plan.load({str(small['whole'].folder/'plan.json')!r})
for seed in 0, 1: train_run(task, plan, {small['timing']!r}, out={str(tmp_path)!r} + f'/{{seed}}', terms=Terms(steps=9, seed=seed, device='cpu'))
"""
    made = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    whole, same, other = small['whole'], *(Run.load(tmp_path/seed) for seed in '01')
    assert all(torch.equal(tensor, whole.weights[name]) for name, tensor in same.weights.items())
    assert same.record.weights_sum == whole.record.weights_sum != other.record.weights_sum
    assert same.record.data_sum == whole.record.data_sum != '' and same.record.environment['code']

class Killed(BaseException):
    "Nothing in the library catches this; what it leaves behind is what a kill leaves behind"

OPERATIONS = 'fsync', 'replace', 'unlink'

def interrupted(monkeypatch, n, action):
    """Calls `action`, killed at its n-th file operation: before it happens for even n, right after it for odd n.
    Returns whether there was such an operation."""
    calls = []
    def counted(real):
        def operation(*args, **kwargs):
            calls.append(real.__name__)
            is_now = len(calls) == n//2 + 1
            if is_now and n % 2 == 0: raise Killed
            result = real(*args, **kwargs)
            if is_now: raise Killed
            return result
        return operation
    with monkeypatch.context() as mp:
        for name in OPERATIONS: mp.setattr(os, name, counted(getattr(os, name)))
        try: action()
        except Killed: return True
    return False

def test_a_kill_at_any_file_operation_of_a_run(small, monkeypatch, tmp_path):
    "Walks through all of them: the same command ends with the weights and the log of the run that was left alone"
    n = 0
    while interrupted(monkeypatch, n, lambda: train(small, tmp_path/f'{n}')):
        again = train(small, tmp_path/f'{n}')
        steps = [row['steps'] for row in again.log]
        assert steps == [row['steps'] for row in small['whole'].log], f'killed at {n}: an epoch was trained twice or lost'
        whole = small['whole'].weights
        assert all(torch.equal(tensor, whole[name]) for name, tensor in again.weights.items()), n
        n += 1
    assert n > 30, 'a run has more file operations than that'

def test_two_processes_on_one_run(small, tmp_path):
    "The second one is told in one line, and the first is not disturbed"
    code = f'from fastseg.run import run_lock\nwith run_lock({str(tmp_path)!r}):\n    print("ready", flush=True)\n    input()'
    other = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == 'ready\n'
        with pytest.raises(FastsegError, match='another process is working on'): train(small, tmp_path)
        assert [o.name for o in tmp_path.iterdir()] == ['.lock']
        other.kill() # however it ends, the lock is open again
        other.wait()
        assert train(small, tmp_path).record.status == 'trained'
    finally: other.kill()

def test_an_edited_plan_is_not_ignored(small, monkeypatch, tmp_path):
    "An unfinished run and another plan: one line that says so, and the run stays as it is"
    assert interrupted(monkeypatch, 20, lambda: train(small, tmp_path))
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for change, word in ((dict(batch_size=1), 'plan'), (dict(arithmetic='bf16'), 'arithmetic')):
        with pytest.raises(FastsegError, match=f'another {word}'): train(dict(small, plan=small['plan'].change(**change)), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before

def baseline(small, out):
    with quiet(): return train_baseline(small['task'], small['terms'], plan=small['plan'], out=out)

@pytest.mark.parametrize('place', ['fastseg.baseline.score_run', 'fastseg.validate.predict', 'fastseg.validate.evaluate',
    'fastseg.baseline.write_report', 'fastseg.report.write_page'])
def test_a_kill_while_it_is_scored(place, small, monkeypatch, tmp_path):
    "What is trained is only scored and reported; the same command does the rest"
    def killed(*args, **kwargs): raise Killed
    with monkeypatch.context() as mp:
        mp.setattr(place, killed)
        with pytest.raises(Killed): baseline(small, tmp_path/'run')
    monkeypatch.setattr('fastseg.train._fit', lambda *a: pytest.fail('trained again'))
    run = baseline(small, tmp_path/'run')
    assert all((run.folder/name).exists() for name in ('scores.json', 'report.html'))
    with pytest.raises(FastsegError, match='a finished run'): baseline(small, tmp_path/'run')

def test_older_files_are_named(tmp_path):
    "A plan and a run of the version before: one line each"
    write_json(tmp_path/'plan.json', dict(task='Task04_Hippocampus', fold=[2, 2, 2], strides=[]))
    write_json(tmp_path/'run.json', dict(status='finished', settings={}, fold=0))
    with pytest.raises(FastsegError, match='older version'): Plan.load(tmp_path/'plan.json')
    with pytest.raises(FastsegError, match='older or unknown version'): Run.load(tmp_path)

def test_an_ensemble_needs_one_plan(small, tmp_path):
    "Two runs that want their scans scaled differently are refused"
    from fastseg.predict import predict
    other = small['plan'].change(normalisation=[dict(kind='ct', low=0., high=1., mean=0., std=1.)])
    clipped = begin_run(tmp_path/'clipped', small['whole'].record, other, small['whole'].cases)
    with pytest.raises(FastsegError, match='different normalisation'): predict([small['whole'], clipped], small['task'].train[0], tmp_path)
