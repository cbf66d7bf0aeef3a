"""Whatever a file or a word on the command line holds, it is read, or refused in one line: found, expected, what to do.

`make test` tries a few dozen inputs for each reader, always the same ones; `make torture` tries thousands of new ones."""
import copy, gzip, json, os, tarfile
import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from conftest import is_one_line
from fastseg.cli import main
from fastseg.dataset import from_dicom, make_series
from fastseg.evaluate import Scores
from fastseg.label import read_labels
from fastseg.model import build_model, get_weights
from fastseg.phantom import make_pictures
from fastseg.pictures import load_picture, read_targets
from fastseg.plan import Plan, make_plan
from fastseg.predict import redrawing
from fastseg.fingerprint import fingerprint
from fastseg.question import load_scores, read_answers, score_answers
from fastseg.record import Record, Terms
from fastseg.run import Run, begin_run
from fastseg.settings import FastsegError, data_path, quiet, read_json, write_json
from fastseg.study import Study
from fastseg.task import Task, load_image, load_label
from fastseg.transfer import load_source

LONG = int(os.environ.get('FASTSEG_TORTURE', 0)) # inputs for each reader
tried = settings(max_examples=LONG or 40, derandomize=not LONG, deadline=None, database=None,
    suppress_health_check=list(HealthCheck))

# inputs

NUMBERS = st.integers() | st.floats(allow_nan=True, allow_infinity=True)
LONG_NAMES = ['x'*300, 'ä'*200, 'a/'*3000] # longer than a disk takes: letters, bytes, all of it
JSON = st.recursive(st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(LONG_NAMES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=6)

@st.composite
def edited(draw, valid):
    "A JSON value of which one to three places were changed or taken away"
    data = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        node, parent = data, None
        while isinstance(node, (dict, list)) and node and (parent is None or draw(st.booleans())):
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            node, parent = node[key], node
        if parent is None: return draw(JSON)
        if draw(st.booleans()): del parent[key]
        else: parent[key] = draw(JSON)
    return data

@st.composite
def damaged(draw, whole):
    "The bytes of a file with flipped bits, cut off, or with a hole"
    how, data = draw(st.sampled_from(['flip', 'cut', 'hole'])), bytearray(whole)
    place = draw(st.integers(0, len(data) - 1))
    if how == 'cut': return bytes(data[:place])
    if how == 'hole': return bytes(data[:place] + data[place + draw(st.integers(1, 64)):])
    data[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)

def read_or_refused(read):
    "What a reader returns, or None if it refuses in three parts; any other error fails the test"
    try: return read()
    except FastsegError as e:
        assert is_one_line(e)

# what is damaged

@pytest.fixture(scope='module')
def task(phantoms): return Task.from_folder(phantoms('Hippocampus'))

@pytest.fixture(scope='module')
def plan(task):
    with quiet(): return make_plan(fingerprint(task)).change(features=[8, 16, 32], patch_size=[24, 32, 24])

def finished(task, plan, out):
    "A run that was finished after no step"
    record = Record(task.folder_name, str(task.root), {}, {}, {}, 'cpu', {}, {}, 0)
    begun = begin_run(out, record, plan, Terms(steps=1).cases(task))
    return begun.finish(get_weights(build_model(plan, seed=0)), [dict(steps=1, minutes=.1)])

@pytest.fixture(scope='module')
def run(task, plan, tmp_path_factory): return finished(task, plan, tmp_path_factory.mktemp('run')/'whole')

@pytest.fixture
def spoiled(run, tmp_path):
    "Copies of the run's files, of which a test spoils one"
    for path in run.folder.iterdir():
        if path.is_file(): (tmp_path/path.name).write_bytes(path.read_bytes())
    return tmp_path

# files of fastseg

@tried
@given(st.data())
def test_a_plan(plan, spoiled, data):
    path = spoiled/'plan.json'
    path.write_text(json.dumps(data.draw(edited(json.loads(json.dumps(vars(plan)))))))
    found = read_or_refused(lambda: Plan.load(path))
    if found: assert found.explain()

@tried
@given(st.data())
def test_a_record(run, spoiled, data):
    (spoiled/'run.json').write_text(json.dumps(data.draw(edited(read_json(run.folder/'run.json')))))
    found = read_or_refused(lambda: Run.load(spoiled))
    if found: read_or_refused(lambda: found.model('cpu'))

@tried
@given(st.data())
def test_the_cases_of_a_run(run, spoiled, data):
    (spoiled/'split.json').write_text(json.dumps(data.draw(edited(read_json(run.folder/'split.json')))))
    write_json(spoiled/'run.json', dict(read_json(spoiled/'run.json'), split_sum='')) # as in older runs
    read_or_refused(lambda: Run.load(spoiled).cases)

@tried
@given(st.data())
def test_a_study(tmp_path, data):
    runs = [dict(arm=arm, count=1, pair='seed0', scores=[]) for arm in ('scratch', 'transfer')]
    (tmp_path/'study.json').write_text(json.dumps(data.draw(edited(dict(question='?', steps=1, asked={}, runs=runs)))))
    found = read_or_refused(lambda: Study.load(tmp_path))
    if found: assert 'runs)' in repr(found) and found.level

@tried
@given(st.data())
def test_weights(run, spoiled, data):
    "Damage is told, or it was in a place that does not matter"
    (spoiled/'weights.safetensors').write_bytes(data.draw(damaged((run.folder/'weights.safetensors').read_bytes())))
    assert read_or_refused(lambda: Run.load(spoiled).weights) is None

@tried
@given(st.data())
def test_a_checkpoint(run, spoiled, data):
    "Damage is told, or it was in a place that does not matter"
    there, rows = Run.load(spoiled), [dict(steps=1, minutes=.1)]
    there.save_checkpoint(run.weights, rows)
    path = spoiled/'checkpoint.safetensors'
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    found = read_or_refused(there.load_checkpoint)
    if found: assert found[1] == rows and all(w.equal(run.weights[name]) for name, w in found[0].items())

@tried
@given(st.data())
def test_a_file_of_weights_alone(run, plan, tmp_path, data):
    "Weights know their sum themselves, also where they were copied out of their run"
    path = tmp_path/'weights.safetensors'
    path.write_bytes(data.draw(damaged((run.folder/'weights.safetensors').read_bytes())))
    model = build_model(plan)
    if read_or_refused(lambda: load_source(path, model)) is None: return
    assert all(w.equal(run.weights[name]) for name, w in get_weights(model).items())

@tried
@given(st.data())
def test_a_list_of_labels(tmp_path, data):
    kept = dict(by='networks', scans=dict(a='stamp'), labels=dict(a='sum'))
    (tmp_path/'predictions.json').write_text(json.dumps(data.draw(edited(kept))))
    read_or_refused(lambda: redrawing(tmp_path, []).__enter__())

@pytest.mark.parametrize('content', [7, [], [1], {}, None, 'x', {1: torch.ones(2)}, dict(a=1), dict(state_dict=3),
    dict(a=torch.ones(2))], ids=str)
def test_a_foreign_checkpoint(plan, tmp_path, content):
    torch.save(content, tmp_path/'source.pt')
    assert read_or_refused(lambda: load_source(tmp_path/'source.pt', build_model(plan))) is None

# scans and what describes them

@tried
@given(st.data())
def test_dataset_json(task, tmp_path, data):
    for part in ('imagesTr', 'labelsTr', 'imagesTs'):
        if not (tmp_path/part).exists(): (tmp_path/part).symlink_to(task.root/part)
    (tmp_path/'dataset.json').write_text(json.dumps(data.draw(edited(read_json(task.root/'dataset.json')))))
    read_or_refused(lambda: Task.from_folder(tmp_path))

@pytest.mark.parametrize('ending', ['.nii.gz', '.nii'])
@pytest.mark.parametrize('read', [load_image, load_label])
def test_a_scan(task, tmp_path, read, ending):
    "A changed bit is told wherever a check sum knows of it; nothing but a changed number is ever the result"
    packed = (task.train[0].image[0] if read is load_image else task.train[0].label).read_bytes()
    whole = packed if ending == '.nii.gz' else gzip.decompress(packed)
    path = tmp_path/f'scan{ending}'
    path.write_bytes(whole)
    right, affine = read(path)
    @tried
    @given(damaged(whole))
    def spoil(content):
        path.write_bytes(content)
        found = read_or_refused(lambda: read(path))
        if found and ending == '.nii.gz': assert np.array_equal(found[0], right) and np.array_equal(found[1], affine)
    spoil()

# pictures, series and tables

@pytest.fixture(scope='module')
def pictures(tmp_path_factory): return Task.find(make_pictures(tmp_path_factory.mktemp('pictures')/'known', n=2))

def with_each_damage(path, check, tried=tried):
    "Spoils a file that is whole, again and again, and checks what is read then"
    whole = path.read_bytes()
    @tried
    @given(damaged(whole))
    def spoil(content):
        path.write_bytes(content)
        check()
    spoil()

def test_a_picture(pictures, tmp_path):
    path = tmp_path/'a.png'
    path.write_bytes(pictures.train[0].image[0].read_bytes())
    def check():
        found = read_or_refused(lambda: load_picture(path))
        if found: assert found[0].ndim == 4 and np.isfinite(found[0]).all()
    with_each_damage(path, check)

def test_an_archive_of_pictures(pictures, tmp_path):
    path = tmp_path/'a.tar'
    with tarfile.open(path, 'w') as tar: tar.add(pictures.root, '.')
    def check():
        found = read_or_refused(lambda: Task.find(path))
        if not found: return
        assert len(found.train) == len(pictures.train) # a shorter archive is a damaged one
        for case in found.train: read_or_refused(case.load)
    with_each_damage(path, check)

def test_a_series(tmp_path):
    folder = make_series(np.arange(4*5*3).reshape(4, 5, 3), tmp_path/'series')
    few = settings(tried, max_examples=min(LONG or 40, 200)) # for a damaged slice GDCM takes memory that it keeps
    with_each_damage(folder/'0001.dcm', lambda: read_or_refused(lambda: from_dicom(folder, tmp_path/'out.nii.gz')), few)

TABLE = 'case,answer\np1,round\np2,square\n'.encode()

@tried
@given(content=damaged(TABLE) | st.binary(max_size=60))
def test_a_table(tmp_path, content):
    path = tmp_path/'table.csv'
    path.write_bytes(content)
    for read in (read_targets, read_answers): read_or_refused(lambda: read(path))
    given = read_or_refused(lambda: read_labels(path, ['round', 'square']))
    assert set((given or {}).values()) <= {'round', 'square'}

@tried
@given(st.data())
def test_answers(pictures, tmp_path, data):
    rows = [dict(case=case.name, answer=case.target, p_round=.5, p_square=.5) for case in pictures.train]
    path = tmp_path/'answers.json'
    path.write_text(json.dumps(data.draw(edited(rows))))
    found = read_or_refused(lambda: score_answers(read_answers(path), pictures))
    if found: assert found.summary()

@tried
@given(st.data())
def test_scores(tmp_path, data):
    row = dict(case='a', label=1, name='organ', dice=.5, hd95_mm=2., nsd=.5, asd_mm=1., prediction_ml=1., target_ml=1.)
    Scores([row, dict(row, case='b')], {1: 'organ'}).save(tmp_path/'whole.json')
    path = tmp_path/'scores.json'
    path.write_text(json.dumps(data.draw(edited(read_json(tmp_path/'whole.json')))))
    found = read_or_refused(lambda: load_scores(path))
    if found: assert found.summary()

@tried
@given(st.data())
def test_scored_answers(pictures, tmp_path, data):
    rows = {case.name: dict(case=case.name, answer=case.target, p_round=.5, p_square=.5) for case in pictures.train}
    score_answers(rows, pictures).save(tmp_path/'whole.json')
    path = tmp_path/'scores.json'
    path.write_text(json.dumps(data.draw(edited(read_json(tmp_path/'whole.json')))))
    found = read_or_refused(lambda: load_scores(path))
    if found: assert found.summary()

@tried
@given(value=st.text(max_size=30) | st.sampled_from(['~no_such_user', '~', 'a\0b', '%(x)s', '[x]']))
def test_settings_ini(tmp_path, monkeypatch, value):
    (tmp_path/'settings.ini').write_text(f'[DEFAULT]\ndata_path = {value}\n', encoding='utf-8', errors='replace')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('FASTSEG_DATA_PATH', raising=False)
    read_or_refused(data_path)

# words

@pytest.mark.parametrize('words', ['baseline 4 --minutes nan', 'baseline 4 --minutes inf', 'baseline 4 --minutes 0',
    'baseline 4 --minutes -1', 'baseline 4 --seed -1', 'baseline 4 --seed 4294967296', 'demo --minutes nan',
    'transfer a b --labels 0', 'transfer a b --workers -1', 'transfer a b --steps 0', 'bench 4 --seconds 0'])
def test_an_impossible_number(words, capsys):
    with pytest.raises(SystemExit) as e: main(words.split())
    err = capsys.readouterr().err
    assert e.value.code == 2 and len(err.splitlines()) == 1 and 'expected a' in err

@pytest.mark.parametrize('words', [['check', ''], ['plan', 'a\0b'], ['predict', 'r', 'i', '--out', 'x'*300]], ids=repr)
def test_an_impossible_path(words, capsys):
    with pytest.raises(SystemExit) as e: main(words)
    assert e.value.code == 2 and 'expected a path' in capsys.readouterr().err

@tried
@given(words=st.lists(st.text(st.characters(exclude_characters='/.~'), max_size=12) | st.sampled_from(['baseline', 'predict', 'transfer', 'evaluate', 'check',
    'plan', '--out', '--minutes', '--steps', '1', 'nan', 'nowhere', '4']), max_size=6))
def test_any_words(words, tmp_path, monkeypatch):
    "Any words at all: the help, or one line; never a traceback, never an unexpected error (which is code 1)"
    monkeypatch.chdir(tmp_path)
    for key in ('DATA', 'MODELS', 'RESULTS'): monkeypatch.setenv(f'FASTSEG_{key}_PATH', str(tmp_path/key))
    try: code = main(words)
    except SystemExit as e: code = e.code
    assert code in (0, 2)
