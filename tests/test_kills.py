"Killed at any moment, or on a full disk, a run and a study go on to the same end; make torture does it hundreds of times"
import ctypes, os, random, re, shutil, subprocess, time
from collections import Counter
import pytest, torch
from conftest import _START
from fastseg.baseline import train_baseline
from fastseg.fingerprint import fingerprint
from fastseg.phantom import make_phantom
from fastseg.plan import Plan, make_plan
from fastseg.record import Terms
from fastseg.run import Run
from fastseg.settings import FastsegError, quiet, read_json
from fastseg.study import run_study
from fastseg.task import Task
from fastseg.trials import SCRATCH, Arm, Design

KILLS = int(os.environ.get('FASTSEG_KILLS', 2)) # of a run, and as many of a study; and as many full disks of each

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "The folder of a small task, with a small plan of exact arithmetic beside it"
    root = tmp_path_factory.mktemp('kills')
    task = Task.from_folder(make_phantom('Hippocampus', root, n_train=5, n_test=0))
    plan = make_plan(fingerprint(task)).change(features=[4, 8, 16], patch_size=[16, 16, 16], arithmetic='fp32')
    plan.save(root/'plan.json')
    return task.root

def a_run(task, plan, out):
    if not (out/'report.html').exists(): train_baseline(task, Terms(steps=9, device='cpu'), plan=plan, out=out)

def a_study(task, plan, out):
    arms, design = [SCRATCH, Arm('turned', changes=dict(turned=1.))], Design((2,), seeds=(0,), test=2)
    run_study(task, arms, design=design, terms=Terms(steps=4, device='cpu'), plan=plan, out=out/'study')

def work(action, data, place):
    "What the new process does, with folders of its own: it prepares, trains, scores and reports"
    torch.set_num_threads(1)
    for name in 'MODELS', 'RESULTS': os.environ[f'FASTSEG_{name}_PATH'] = str(place/name.lower())
    with quiet(): action(Task.from_folder(data), Plan.load(data.parent/'plan.json'), place/'out')

def begin(*args):
    process = _START.Process(target=work, args=args)
    process.start()
    return process

def ending(place):
    "What must be the same: weights, steps and scores of every run"
    found = {}
    for path in sorted(place.rglob('run.json')):
        run = Run.load(path.parent)
        weights = {name: tensor.tolist() for name, tensor in run.weights.items()}
        found[path.parent.name] = weights, [row['steps'] for row in run.log], read_json(path.parent/'scores.json')
    return found

def moment(place):
    "How far the work had come when it was killed"
    runs = [path.parent for path in place.rglob('run.json')]
    if not runs: return 'before a run began'
    if not all((run/'weights.safetensors').exists() for run in runs): return 'in training'
    return 'in scoring' if not all((run/'scores.json').exists() for run in runs) else 'between runs, or in the report'

def seconds_of(action, data, place):
    "How long the work takes when nobody disturbs it"
    for warm in False, True: # the first one may wait until PyTorch is imported
        shutil.rmtree(place, ignore_errors=True)
        start, process = time.perf_counter(), begin(action, data, place)
        process.join(300)
        assert process.exitcode == 0
    return time.perf_counter() - start

def killed_after(process, seconds):
    "Was it still at work?"
    process.join(seconds)
    process.kill() # SIGKILL: nothing can be tidied up
    process.join()
    return process.exitcode == -9

@pytest.mark.parametrize('action', [a_run, a_study])
def test_the_same_end(action, data, tmp_path):
    seconds, rng, kills = seconds_of(action, data, tmp_path/'whole'), random.Random(0), Counter()
    expected = ending(tmp_path/'whole')
    assert expected
    for n in range(KILLS):
        place = tmp_path/f'{n}'
        for _ in range(rng.choice((1, 1, 2, 3))): # the same work may be killed several times
            if killed_after(begin(action, data, place), rng.uniform(.05, .95)*seconds): kills[moment(place)] += 1
        last = begin(action, data, place)
        last.join(300)
        assert last.exitcode == 0, f'run {n} ended with {last.exitcode}; killed so far: {dict(kills)}'
        assert ending(place) == expected, f'run {n} has another end; killed so far: {dict(kills)}'
        shutil.rmtree(place)
    print(dict(kills))
    assert kills.total() >= KILLS/2, f'{kills.total()} kills in {KILLS} runs'

# a full disk: one of its own, in memory, that only the new process sees; so this needs Linux and its administrator

OWN_MOUNTS = 0x20000 # CLONE_NEWNS of sched.h

def mount(*args): subprocess.run(['mount', *args], check=True, capture_output=True)

def on_a_small_disk(action, data, place, kilobytes):
    "In the new process: the work where there is no room for it, then the same with room; a copy of the disk stays"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(OWN_MOUNTS): raise OSError(ctypes.get_errno(), 'no mounts of its own')
    mount('--make-rprivate', '/')
    disk = place/'disk'
    disk.mkdir(parents=True)
    mount('-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs', str(disk))
    try: work(action, data, disk)
    except FastsegError as e: (place/'told').write_text(str(e))
    mount('-o', 'remount,size=1g', str(disk))
    work(action, data, disk)
    shutil.copytree(disk, place/'copy')

@pytest.fixture(scope='module')
def may_mount():
    try: subprocess.run(['unshare', '-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError): pytest.skip('a disk of its own needs Linux, and its administrator')

@pytest.mark.parametrize('action', [a_run, a_study])
def test_a_full_disk(action, data, tmp_path, may_mount):
    seconds_of(action, data, tmp_path/'whole')
    expected, rng, told = ending(tmp_path/'whole'), random.Random(0), Counter()
    needed = sum(path.stat().st_size for path in (tmp_path/'whole').rglob('*') if path.is_file())//1024
    assert expected
    for n in range(KILLS):
        place, share = tmp_path/f'{n}', .05 + .9*(n + rng.random())/KILLS # from hardly anything to nearly enough
        process = _START.Process(target=on_a_small_disk, args=(action, data, place, round(share*needed)))
        process.start()
        process.join(300)
        if process.is_alive(): process.kill()
        assert process.exitcode == 0, f'disk {n} ended with {process.exitcode}; told so far: {dict(told)}'
        assert ending(place/'copy') == expected, f'disk {n} has another end; told so far: {dict(told)}'
        if (place/'told').exists(): told[(place/'told').read_text().replace(str(place), '')] += 1
        shutil.rmtree(place)
    print(dict(told))
    assert told.total() >= KILLS/2, f'{told.total()} full disks in {KILLS} runs'
    assert all('No space left' in o or re.match(r'found [\d.]+ [kMG]B free in ', o) for o in told), told
