"The command itself: help that is a manual, one line for what is wrong, exit codes that a script can see."
import os, re, shutil, socket, subprocess, sys
from pathlib import Path
import pytest
import fastseg, fastseg.dataset
from fastseg.cli import VERBS, main
from fastseg.task import TASKS

@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    "Every path of settings.ini below an empty folder."
    for o in 'DATA', 'MODELS', 'RESULTS': monkeypatch.setenv(f'FASTSEG_{o}_PATH', str(tmp_path/o.lower()))
    return tmp_path

def shell(*argv, **kwargs):
    "The command as a process, as a shell starts it; its output is not passed on line by line."
    command = shutil.which('fastseg', path=Path(sys.executable).parent)
    if not command: pytest.skip('the command fastseg is not installed beside this Python')
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
    return subprocess.run([command, *argv], env=env, stderr=subprocess.PIPE, text=True, timeout=60, **kwargs)

def stopped(argv, capsys): # argv: words that make argparse stop
    "Exit code, output and error of a command that never starts."
    with pytest.raises(SystemExit) as e: main(argv)
    return e.value.code, *capsys.readouterr()

def one_line(err, *words):
    assert len(err.splitlines()) == 1 and err.startswith('fastseg') and 'Traceback' not in err, err
    assert all(o in err for o in words), err

# help

@pytest.mark.parametrize('verb', VERBS)
def test_help_is_a_manual(verb, capsys):
    "Each word and each option has a sentence, and the verb has one, too."
    code, text, err = stopped([verb, '--help'], capsys)
    about, words, options = re.fullmatch(r'usage:.*?\n\n(.*?)\n\n(?:positional arguments:\n(.*?)\n\n)?options:\n(.*)', text, re.S).groups()
    assert (code, err) == (0, '') and about.endswith('.')
    entries = [' '.join(o.split()) for o in re.split(r'\n(?=  \S)', f'{words or ""}\n{options.rstrip()}') if o.strip()]
    assert len(entries) == len(VERBS[verb][2]) + 2, '--help and --debug come on top'
    for o in entries: assert o.startswith('-h') or re.search(r' [A-Z].*\w.*\.$', o), f'no sentence: {o}'

def test_help_lists_the_verbs(capsys):
    code, text, _ = stopped(['--help'], capsys)
    assert code == 0 and re.findall(r'^    (\w+)  ', text, re.M) == list(VERBS)

def test_alone_it_prints_the_help(capsys):
    code, text, err = stopped([], capsys)
    assert (code, err) == (0, '') and text == stopped(['--help'], capsys)[1]

def test_version(capsys): assert stopped(['--version'], capsys)[:2] == (0, f'{fastseg.__version__}\n')

# wrong usage

@pytest.mark.parametrize('argv, word', [
    ('nonsense', "'nonsense'"), ('plan', 'TASK'), ('predict run images', '--out'), ('tasks 4', 'unrecognized'), ('baseline 4 --nonsense', '--nonsense'),
    ('baseline 4 --minutes soon', "'soon'"), ('baseline 4 --fold first', "'first'"), ('evaluate a b --cases', '--cases')])
def test_wrong_usage(argv, word, capsys):
    code, out, err = stopped(argv.split(), capsys)
    assert (code, out) == (2, '')
    one_line(err, word, '--help')

def test_exit_code_reaches_the_shell():
    for argv in ('nonsense',), ('plan', 'Elbow'):
        made = shell(*argv, stdout=subprocess.PIPE)
        assert (made.returncode, made.stdout) == (2, '')
        one_line(made.stderr)

# tasks

def listed(capsys):
    assert main(['tasks']) == 0
    return capsys.readouterr().out.splitlines()

def test_tasks(capsys, places, monkeypatch, phantoms):
    lines = listed(capsys)
    assert [o.split()[:2] for o in lines] == [[str(o.number), o.name] for o in TASKS.values()] and len(lines) == 10
    assert not any(o.endswith('here') for o in lines) and not list(places.iterdir()), 'a question creates no folder'
    monkeypatch.setenv('FASTSEG_DATA_PATH', str(phantoms.path))
    assert {o.split()[1] for o in listed(capsys) if o.endswith('here')} >= {'Hippocampus', 'Heart'}

@pytest.mark.skipif(os.name == 'nt', reason='pipes break in another way on Windows')
def test_a_reader_that_leaves():
    "`fastseg tasks | head -1` is no error."
    end, start = os.pipe()
    os.close(end)
    with open(start, 'w') as pipe: made = shell('tasks', stdout=pipe)
    assert (made.returncode, made.stderr) == (0, '')

# errors

def test_debug_shows_the_traceback():
    made = shell('plan', 'Elbow', '--debug', stdout=subprocess.PIPE)
    assert made.returncode and 'Traceback' in made.stderr and '_find_task' in made.stderr
    assert made.stderr.splitlines()[-1].startswith('fastseg.settings.FastsegError: found no task')

@pytest.mark.parametrize('error, code, word', [(ZeroDivisionError('one\ntwo'), 1, 'ZeroDivisionError (one two)'), (KeyboardInterrupt(), 130, 'interrupted')])
def test_what_nobody_foresaw(error, code, word, capsys, monkeypatch):
    def verb(words): raise error
    monkeypatch.setitem(VERBS, 'tasks', (verb, *VERBS['tasks'][1:]))
    assert main(['tasks']) == code
    one_line(capsys.readouterr().err, word)
    with pytest.raises(type(error)): main(['tasks', '--debug'])

def test_download_without_network(capsys, places, monkeypatch):
    "A port on which nobody listens: one line that says what to do, and nothing that looks like data."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{s.getsockname()[1]}/Task04_Hippocampus.tar'
    monkeypatch.setattr(fastseg.dataset, 'archive_address', lambda task: (url, '0'*32))
    for more in [], ['--to', str(places/'elsewhere')]:
        assert main(['download', 'Hippocampus', *more]) == 2
        out, err = capsys.readouterr()
        one_line(err, 'found no way to', url, 'expected a network', 'phantoms')
        assert out == ''
    assert not [o for o in places.rglob('*') if o.is_file() or o.name.startswith('Task')]

# evaluate

def test_only_these_cases(phantoms, places, capsys):
    "One prediction and many labels: refused, unless the case is named."
    labels, mine = phantoms('Hippocampus')/'labelsTr', places/'mine'
    mine.mkdir()
    shutil.copy(labels/'hippocampus_001.nii.gz', mine)
    assert main(['evaluate', str(mine), str(labels)]) == 2
    one_line(capsys.readouterr().err, 'no prediction', '--cases')
    assert main(['evaluate', str(mine), str(labels), '--cases', 'hippocampus_001']) == 0
    assert 'Dice 1.000' in capsys.readouterr().out

def test_lesions_are_counted(phantoms, capsys):
    "A line for each label that is named; an unknown one is refused."
    labels = str(phantoms('Hippocampus')/'labelsTr')
    n = len(list(Path(labels).glob('*.nii.gz')))
    assert main(['evaluate', labels, labels, '--lesions', 'Anterior']) == 0
    assert f'Anterior: {n} of {n} lesions found, 0 of {n} drawn pieces invented' in capsys.readouterr().out
    assert main(['evaluate', labels, labels, '--lesions', 'tumour']) == 2
    one_line(capsys.readouterr().err, "no label 'tumour'", 'Anterior, Posterior')

def heard(monkeypatch, place, line): # arguments, and those with a name
    "What a function is called with when the command says a line"
    calls = []
    monkeypatch.setattr(place, lambda *args, **more: calls.append((args, more)) or [])
    assert main(line.split()) == 0
    return calls[0]

def test_options_of_baseline_arrive(monkeypatch):
    from fastseg.record import Terms
    line = 'baseline x --fold 3 --seed 7 --epochs 2 --processes 2'
    (task, terms), more = heard(monkeypatch, 'fastseg.baseline.train_baseline', line)
    assert (task, terms, more['processes']) == ('x', Terms(epochs=2, seed=7, fold=3), 2)
    assert heard(monkeypatch, 'fastseg.baseline.train_members', 'baseline x --members 3')[1]['members'] == 3
    heard(monkeypatch, 'fastseg.baseline.train_folds', 'baseline x --fold all')

def test_options_of_transfer_arrive(monkeypatch):
    from fastseg.trials import Design
    line = 'transfer a b --labels 4 --folds 0 1 --until-decided --controls --cluster slurm:gpu --device cuda'
    _, more = heard(monkeypatch, 'fastseg.study.transfer', line)
    assert more['design'] == Design((4,), (0, 1), tuple(range(12)), 'half', 2)
    assert more['controls'] and more['cluster'] == 'slurm:gpu'
    _, more = heard(monkeypatch, 'fastseg.study.transfer', 'transfer a b --plan --workers 2 --test others')
    assert more['design'] == Design((None,), (), tuple(range(6)), 'others', 1)
    assert more['only_plan'] and more['workers'] == 2

def test_options_of_predict_and_bench_arrive(monkeypatch):
    _, more = heard(monkeypatch, 'fastseg.predict.predict', 'predict r i --out o --no-flips --probabilities --device cpu')
    assert more == dict(device='cpu', flips=False, probabilities=True)
    _, more = heard(monkeypatch, 'fastseg.bench.bench', 'bench x --reach .8 --beside')
    assert more['reach'] == .8 and more['beside']

@pytest.mark.parametrize('line', ['predict r i --out o.csv --probabilities', 'predict r i --out o.csv --dicom-seg',
    'transfer a b --plan --quiet'])
def test_options_that_contradict_each_other(line, capsys):
    assert main(line.split()) == 2
    one_line(capsys.readouterr().err, line.split()[-1], 'leave')

def test_the_beginning_of_an_option_is_not_the_option(capsys):
    assert stopped(['transfer', 'a', 'b', '--seed', '3'], capsys)[0] == 2
