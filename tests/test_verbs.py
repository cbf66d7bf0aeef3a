"""Every verb with real files, of which one or two words are changed: it does its work, or says in one line why not.

No scan, no label and no network is harmed by it. Training itself is left out: the verbs go as far as its first step.
`make test` tries a few dozen calls, always the same ones; `make torture` tries thousands of new ones."""
import shutil, socket
from collections import Counter
from hypothesis import given, strategies as st
import numpy as np, pytest
import fastseg.baseline, fastseg.bench, fastseg.study
from fastseg.cli import VERBS, main
from fastseg.dataset import make_series
from fastseg.fingerprint import fingerprint
from fastseg.phantom import make_phantom, make_pictures
from fastseg.plan import make_plan
from fastseg.settings import FastsegError, quiet
from fastseg.task import Task
from fastseg.validate import score_run
from test_damage import finished, tried

# what there is: tasks, a run, labels, scores, and files of other kinds

@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp('verbs')
    with quiet():
        task = Task.find(make_phantom('Hippocampus', root, n_train=5, n_test=1, shape=(16, 16, 16)))
        plan = make_plan(fingerprint(task)).change(features=[4, 8, 16], patch_size=[16, 16, 16], batch_size=1)
        plan.save(root/'plan.json')
        for name in 'run', 'other': score_run(finished(task, plan, root/name), task, device='cpu')
        pictures = Task.find(make_pictures(root/'pictures', n=2))
        looks = finished(pictures, make_plan(fingerprint(pictures)).change(batch_size=1), root/'looks')
        score_run(looks, pictures, device='cpu')
    make_series(np.arange(4*5*3).reshape(4, 5, 3), root/'series')
    (root/'empty').mkdir()
    (root/'text.json').write_text('[1, 2]')
    (root/'answers.csv').write_text('case,answer,p_round,p_square\nround_000,round,.9,.1\n')
    (root/'ages.csv').write_text('case,age\nround_000,30\n')
    (root/'cut.nii.gz').write_bytes(task.train[0].image[0].read_bytes()[:300])
    return root

TASK = 'Task04_Hippocampus'
CALLS = [f'check {TASK}', f'check {TASK} --json', 'check pictures', f'plan {TASK} --minutes 1 --out new.json',
    f'plan {TASK} --spacing 1 1 1 --memory 8GB --device cpu', f'baseline {TASK} --minutes 1 --plan plan.json --out new',
    f'baseline {TASK} --epochs 1 --fold all --seed 1', f'baseline {TASK} --minutes 1 --members 2 --out new',
    f'transfer run {TASK} --labels 2 --steps 1 --seeds 0 1 --test 2', f'transfer run {TASK} --plan --minutes 1',
    f'predict run {TASK}/imagesTr --out new --device cpu', 'predict run series --out new --no-flips',
    f'predict run {TASK} --out new --probabilities', f'evaluate {TASK}/labelsTr {TASK}/labelsTr --out new.json',
    f'evaluate {TASK}/labelsTr {TASK}/labelsTr --lesions Anterior', 'evaluate answers.csv pictures --cases round_000',
    'predict looks pictures --out new.csv', 'evaluate answers.csv pictures --cases round_000 --out new.json',
    'compare run other', 'compare run/scores.json other', f'bench {TASK} --seconds 1 --seeds 0', 'demo --minutes 1',
    f'download {TASK} --to new', 'tasks']
PLACES = [TASK, f'{TASK}/imagesTr', f'{TASK}/labelsTr', f'{TASK}/dataset.json', 'run', 'other', 'run/scores.json',
    'run/weights.safetensors', 'run/predictions', 'plan.json', 'pictures', 'pictures/round', 'series', 'empty',
    'text.json', 'answers.csv', 'ages.csv', 'looks', 'cut.nii.gz', 'new', 'new.json', 'new/new', '.',
    '/dev/null', '~nobody', '']
OPTIONS = sorted({word for _, _, words in VERBS.values() for word, _ in words if word.startswith('--')})
ODD = ['0', '1', '2', '5', '-1', 'nan', '1e9', '4', 'cuda', 'mps', 'cpu', 'all', 'auto', 'native', '8GB', '1B', '-8GB',
    'Anterior', 'Elbow', 'round_000', f'{TASK}#age', 'pictures#answer', 'slurm', 'local', 'ä', 'a\0b', 'a\nb', ' ']
WORDS = st.sampled_from(PLACES) | st.sampled_from(OPTIONS) | st.sampled_from(ODD) | st.text(max_size=6)

@st.composite
def calls(draw):
    "A call that works, of which up to two words are changed, left out or added"
    words = draw(st.sampled_from(CALLS)).split()
    for _ in range(draw(st.integers(0, 2))):
        how, place = draw(st.sampled_from(['change', 'leave', 'add'])), draw(st.integers(1, len(words)))
        words[place:place + (how != 'add')] = [] if how == 'leave' else [draw(WORDS)]
    return words

# what may not happen

def no_training(*args, **more): raise FastsegError('the first step', 'none in this test', 'train elsewhere')

@pytest.fixture
def here(tree, tmp_path, monkeypatch):
    "A folder in which each call finds the tree as it was; nothing is trained, nothing is fetched"
    monkeypatch.chdir(tmp_path)
    for key in ('DATA', 'MODELS', 'RESULTS'): monkeypatch.setenv(f'FASTSEG_{key}_PATH', str(tmp_path/'call'/key))
    monkeypatch.setattr(fastseg.baseline, 'train_run', no_training)
    monkeypatch.setattr(fastseg.study, 'run_trials', no_training)
    monkeypatch.setattr(fastseg.study, '_demo_tasks', no_training)
    monkeypatch.setattr(fastseg.bench, 'start_up', no_training)
    monkeypatch.setattr(socket, 'socket', no_training)
    return tmp_path/'call'

def precious(root): # path → content
    "What nobody can make again: scans, labels, pictures and networks"
    kinds = '*.nii.gz', '*.png', '*.dcm', '*.csv', '*.safetensors', 'dataset.json', 'run.json'
    files = [o for kind in kinds for o in root.rglob(kind) if o.is_file()]
    return {str(o.relative_to(root)): o.read_bytes() for o in files}

READING = 'check', 'plan', 'predict', 'evaluate', 'compare', 'tasks'

@pytest.mark.parametrize('line', [line for line in CALLS if line.split()[0] in READING])
def test_a_call_as_it_stands(line, tree, here, monkeypatch, capsys):
    shutil.copytree(tree, here)
    monkeypatch.chdir(here)
    assert main(line.split()) == 0, capsys.readouterr().err

def test_a_call(tree, here, monkeypatch, capsys):
    kept, ends = precious(tree), Counter()
    @tried
    @given(calls())
    def call(words):
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(tree, here)
        monkeypatch.chdir(here)
        try: code = main(words)
        except SystemExit as e: code = e.code
        err = capsys.readouterr().err
        ends[code] += 1
        assert code in ((0, 1, 2) if words[0] == 'check' else (0, 2)), err
        last = err.strip().splitlines()[-1] if err.strip() else ''
        assert code != 2 or last.startswith('fastseg'), err
        now = precious(here)
        lost = [name for name, content in kept.items() if now.get(name) != content]
        assert not lost, f'{words} has changed {lost}'
    call()
    print(dict(ends))
    assert ends[0] and ends[2]
