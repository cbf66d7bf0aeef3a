"The main job on real cases, through the command line where a student would use it, and what bad input gets"
import errno, json, multiprocessing, os, shutil, subprocess, sys
from pathlib import Path
import nibabel as nib, numpy as np, pytest
from fastseg.cli import main
from fastseg.dataloaders import fork_readers
from fastseg.fingerprint import fingerprint
from fastseg.plan import make_plan
from fastseg.task import Task


@pytest.fixture
def places(tmp_path, monkeypatch):
    "Every path of settings.ini in a folder of its own"
    for key in ('DATA', 'MODELS', 'RESULTS'): monkeypatch.setenv(f'FASTSEG_{key}_PATH', str(tmp_path/key.lower()))
    return tmp_path


def handful(source, target, n):
    "A task folder with the first `n` cases of another one, as links"
    meta = json.loads((source/'dataset.json').read_text())
    meta['training'], meta['test'] = meta['training'][:n], []
    for part in ('imagesTr', 'labelsTr'): (target/part).mkdir(parents=True)
    for row in meta['training']:
        for path in row.values(): (target/path).symlink_to((source/path).resolve())
    (target/'dataset.json').write_text(json.dumps(meta))
    return target


def replace(path, content):
    "Puts other content where a link was"
    path.unlink()
    if isinstance(content, bytes): path.write_bytes(content)
    else: nib.save(content, path)


@pytest.fixture
def few(real_data, places): return handful(real_data/'Task04_Hippocampus', places/'data'/'Task04_Hippocampus', 10)


def test_real_cases_end_to_end(few, places, capsys):
    "baseline, predict, evaluate: labels lie on their scans, and the scores of two commands agree"
    run, out = places/'run', places/'labels'
    assert main(['baseline', 'Hippocampus', '--epochs', '1', '--out', str(run), '--device', 'cpu', '--quiet']) == 0
    for name in ('plan.json', 'split.json', 'log.json', 'run.json', 'scores.json', 'weights.safetensors', 'report.html'): assert (run/name).stat().st_size > 0
    split, scores = (json.loads((run/n).read_text()) for n in ('split.json', 'scores.json'))
    assert {r['case'] for r in scores['per_case']} == set(split['valid']) and not set(split['valid']) & set(split['train'])
    assert scores['mean']['dice'] > .3, 'a hundred steps on eight real cases find some hippocampus'
    for name in split['valid']:
        scan, label = nib.load(few/f'imagesTr/{name}.nii.gz'), nib.load(run/f'predictions/{name}.nii.gz')
        assert label.shape == scan.shape[:3] and np.abs(label.affine - scan.affine).max() < 1e-4
    one = few/'imagesTr'/f'{split["valid"][0]}.nii.gz'
    assert main(['predict', str(run), str(one), '--out', str(out), '--device', 'cpu']) == 0
    assert np.array_equal(nib.load(out/one.name).dataobj, nib.load(run/'predictions'/one.name).dataobj)
    truth = places/'truth'; truth.mkdir(); (truth/one.name).symlink_to(few/'labelsTr'/one.name)
    assert main(['evaluate', str(out), str(truth), '--out', str(places/'scores.json')]) == 0
    again = {r['label']: r['dice'] for r in json.loads((places/'scores.json').read_text())['per_case']}
    assert again == {r['label']: r['dice'] for r in scores['per_case'] if r['case'] == split['valid'][0]}


def test_both_kinds_of_number_in_one_task(few):
    "The real set mixes uint8 and float32 images; what is cached has mean 0 and deviation 1 all the same"
    from fastseg.fingerprint import fingerprint
    from fastseg.plan import make_plan
    from fastseg.prepare import Prepared, preprocess
    from fastseg.task import Task
    task = Task.from_folder(few)
    assert {str(nib.load(c.image[0]).get_data_dtype()) for c in task.train} >= {'uint8', 'float32'}
    folder = preprocess(task, make_plan(fingerprint(task)))
    for case in task.train:
        prepared = Prepared(folder/f'{case.name}.safetensors')
        image = prepared.window('image', (0, 0, 0), prepared.shape).numpy().astype(np.float32)
        assert abs(image.mean()) < .3 and .6 < image.std() < 1.4


def fails(capsys, argv, *words):
    "A command exits non-zero with one line that says found, expected and these words"
    code, err = main([str(a) for a in argv]), capsys.readouterr().err.strip()
    lines = [l for l in err.splitlines() if l.startswith('fastseg ')]
    assert code and len(lines) == 1 and 'Traceback' not in err, err
    assert 'found' in lines[0] and 'expected' in lines[0] and all(w in lines[0] for w in words), lines[0]


FAULTS = {
    'missing label': (lambda root, row: (root/row['label']).unlink(), 'no label'),
    'missing image': (lambda root, row: (root/row['image']).unlink(), 'no image'),
    'label of another shape': (lambda root, row: replace(root/row['label'], nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4))), '9×9×9 voxels'),
    'image that is not NIfTI': (lambda root, row: replace(root/row['image'], b'this is a text'), 'NIfTI'),
    'image cut short': (lambda root, row: replace(root/row['image'], (root/row['image']).read_bytes()[:4000]), 'whole NIfTI file'),
    'label not in dataset.json': (lambda root, row: replace(root/row['label'], nib.Nifti1Image(np.full(nib.load(root/row['image']).shape, 7, np.uint8), nib.load(root/row['image']).affine)), 'labels'),
    'no dataset.json': (lambda root, row: (root/'dataset.json').unlink(), 'dataset.json'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_bad_data_is_one_line(phantom_copy, places, capsys, fault):
    "Each fault is refused in one line before any run folder appears"
    spoil, word = FAULTS[fault]
    spoil(phantom_copy, json.loads((phantom_copy/'dataset.json').read_text())['training'][1])
    fails(capsys, ['baseline', phantom_copy, '--epochs', '1', '--out', places/'run', '--quiet'], word)
    assert not (places/'run').exists()


@pytest.fixture
def phantom_copy(phantoms, tmp_path):
    "Hippocampus phantoms that may be spoiled"
    return Path(shutil.copytree(phantoms('Hippocampus'), tmp_path/'Task04_Hippocampus'))


def test_bad_names_are_one_line(places, capsys):
    (places/'empty').mkdir()
    fails(capsys, ['baseline', 'Elbow'], 'Elbow', 'Hippocampus')
    fails(capsys, ['baseline', places/'empty'], 'dataset.json')
    fails(capsys, ['predict', places/'empty', places/'empty', '--out', places/'x'], 'run.json')
    fails(capsys, ['evaluate', places/'empty', places/'empty'], 'NIfTI')


def test_two_budgets_are_one_line(phantom_copy, places, capsys):
    "Minutes and epochs together are refused before any run folder appears"
    fails(capsys, ['baseline', phantom_copy, '--minutes', '1', '--epochs', '2', '--out', places/'run', '--quiet'], 'one of the three')
    assert not (places/'run').exists()


def test_a_full_disk_leaves_nothing_half_written(phantom_copy, places, capsys, monkeypatch):
    "The disk fills up in the middle of the cache: one line, no temporary files, and the next run finishes the work"
    import fastseg.settings
    from fastseg.prepare import Prepared
    sync, calls = os.fsync, []
    def full(number):
        calls.append(number)
        if len(calls) > 7: raise OSError(errno.ENOSPC, 'No space left on device')
        sync(number)
    monkeypatch.setattr(fastseg.settings.os, 'fsync', full)
    fails(capsys, ['baseline', phantom_copy, '--epochs', '1', '--out', places/'run', '--device', 'cpu', '--quiet'], 'No space left')
    monkeypatch.setattr(fastseg.settings.os, 'fsync', sync)
    cached = list((places/'results'/'preprocessed').glob('*/*.safetensors'))
    assert 0 < len(cached) < len(json.loads((phantom_copy/'dataset.json').read_text())['training'])
    assert not [p for p in places.rglob('.*') if p.is_file() and p.name != '.lock']
    for path in cached: Prepared(path).window('image', (0, 0, 0), Prepared(path).shape)
    assert main(['baseline', str(phantom_copy), '--epochs', '1', '--out', str(places/'run'), '--device', 'cpu', '--quiet']) == 0


def batches_read(root, results): # by two processes that read, in a process that was started afresh
    from fastseg.dataloaders import dataloaders
    os.environ['FASTSEG_RESULTS_PATH'] = results
    task = Task.from_folder(root)
    return len(list(dataloaders(task, make_plan(fingerprint(task)), steps=3, device='cpu', workers=2).train))

def test_a_worker_of_a_study_has_readers(phantoms, tmp_path):
    "A study on several cards trains each run in a new process, which has processes that read: new ones would have to be sent what cannot be"
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), fork_readers) as pool:
        assert pool.submit(batches_read, phantoms('Hippocampus'), str(tmp_path)).result() == 3

def test_two_processes_fill_one_cache(phantom_copy, places):
    "Two processes that prepare the same cases at the same time leave a whole cache"
    from fastseg.prepare import Prepared
    code = ("import sys; from fastseg.task import Task; from fastseg.fingerprint import fingerprint\n"
            "from fastseg.plan import make_plan; from fastseg.prepare import preprocess\n"
            "task = Task.from_folder(sys.argv[1]); print(preprocess(task, make_plan(fingerprint(task))))")
    jobs = [subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(phantom_copy)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {Path(job.communicate()[0].strip()) for job in jobs}
    assert [job.returncode for job in jobs] == [0, 0] and len(folders) == 1
    cached = list(folders.pop().glob('*.safetensors'))
    assert len(cached) == len(json.loads((phantom_copy/'dataset.json').read_text())['training'])
    for path in cached: Prepared(path).window('image', (0, 0, 0), Prepared(path).shape)


def test_help_is_instant():
    "`fastseg --help` loads neither torch nor pandas nor matplotlib"
    code = "import sys; from fastseg.cli import _read\ntry: _read(['--help'])\nexcept SystemExit: pass\nprint(sorted({'torch', 'fastai', 'pandas', 'matplotlib', 'numpy', 'nibabel'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.splitlines()[-1] == '[]'
