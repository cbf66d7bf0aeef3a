"""`check_task` finds every fault that is put into sound folders, names the file, and is silent on sound ones.

Every fault is tried in three folders: real cases of Hippocampus, phantoms, and phantoms in nnU-Net's layout."""
import gzip, json, os, shutil, sys, warnings
from dataclasses import asdict
import nibabel as nib, numpy as np, pytest
from conftest import is_one_line
from fastseg.check import CASE_RULES, KINDS, Finding, check_task, duplicates, require_clean
from fastseg.phantom import make_phantom
from fastseg.settings import FastsegError, quiet
from fastseg.task import Task

class Folder:
    "A task folder to break: where the files of its cases are, and what its dataset.json says."
    def __init__(self, path): self.path, self.task = path, Task.from_folder(path)
    @property
    def n_cases(self): return len(self.task.train) + len(self.task.test)
    def image(self, i): return self.task.train[i].image[0]
    def label(self, i): return self.task.train[i].label
    def test(self, i): return self.task.test[i].image[0]
    def name(self, path): return path.relative_to(self.task.root).as_posix()
    def meta(self, change): # change: what to do to dataset.json
        meta = json.loads((self.path/'dataset.json').read_text())
        change(meta)
        (self.path/'dataset.json').write_text(json.dumps(meta))

def small_copy(source, target, n_train=6, n_test=2):
    "A few cases of an MSD folder; the test cases are training cases whose label is left behind."
    task = Task.from_folder(source)
    for o in 'imagesTr', 'labelsTr', 'imagesTs': (target/o).mkdir(parents=True)
    train, test = task.train[:n_train], task.train[n_train:n_train + n_test]
    for o in train: shutil.copy(o.image[0], target/'imagesTr'); shutil.copy(o.label, target/'labelsTr')
    for o in test: shutil.copy(o.image[0], target/'imagesTs')
    meta = json.loads((source/'dataset.json').read_text())
    meta.update(training=[dict(image=f'./imagesTr/{o.image[0].name}', label=f'./labelsTr/{o.image[0].name}') for o in train],
                test=[f'./imagesTs/{o.image[0].name}' for o in test])
    (target/'dataset.json').write_text(json.dumps(meta))
    return target

def nnunet_copy(source, target):
    "The same cases in nnU-Net's layout, with a second modality made from the first."
    task = Task.from_folder(source)
    for o in 'imagesTr', 'labelsTr', 'imagesTs': (target/o).mkdir(parents=True)
    for part, cases in ('imagesTr', task.train), ('imagesTs', task.test):
        for o in cases:
            img = nib.load(o.image[0])
            shutil.copy(o.image[0], target/part/f'{o.name}_0000.nii.gz')
            nib.save(nib.Nifti1Image(img.get_fdata(dtype='float32')*-.5 + 3, img.affine), target/part/f'{o.name}_0001.nii.gz')
            if o.label: shutil.copy(o.label, target/'labelsTr'/f'{o.name}.nii.gz')
    (target/'dataset.json').write_text(json.dumps(dict(channel_names={'0': 'T1', '1': 'T2'}, file_ending='.nii.gz',
        labels={v: k for k, v in task.labels.items()}, numTraining=len(task.train))))
    return target

@pytest.fixture(scope='session', params=['real', 'phantom', 'nnunet'])
def clean(request, tmp_path_factory):
    target = tmp_path_factory.mktemp(request.param)/'Task04_Hippocampus'
    source = request.getfixturevalue('real_data')/'Task04_Hippocampus' if request.param == 'real' else None
    source = source or small_phantoms(tmp_path_factory)
    return (nnunet_copy if request.param == 'nnunet' else small_copy)(source, target)

def small_phantoms(tmp_path_factory):
    return make_phantom('Hippocampus', tmp_path_factory.mktemp('source'), n_train=8, n_test=2)

@pytest.fixture
def folder(clean, tmp_path): return Folder(shutil.copytree(clean, tmp_path/clean.name))

def check(folder): return check_task(folder.path)
def is_nnunet(folder): return len(folder.task.modalities) == 2
def found(findings): return sorted((o.file, o.kind) for o in findings.rows)

# faults: each breaks a folder and returns the findings it has to cause, as (file, kind)

def rewrite(path, voxels=None, affine=None, header=None):
    "Write a NIfTI again with other voxels (a function of the array), affine (of the matrix) or header (changes it)."
    img = nib.load(path)
    array, mat = np.array(img.dataobj), img.affine
    new = nib.Nifti1Image(voxels(array) if voxels else array, affine(mat.copy()) if affine else mat)
    if header: header(new.header)
    nib.save(new, path)

def setting(value, at=(3, 4, 5), dtype=None):
    def change(array):
        array = array.astype(dtype or array.dtype)
        array[at] = value
        return array
    return change

def moved(mat): mat[0, 3] += 4; return mat
def tilted(mat): return mat @ np.array([[.98, -.2, 0, 0], [.2, .98, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.]])

def cut(f): f.image(0).write_bytes(f.image(0).read_bytes()[:-2000]); return [(f.image(0), 'unreadable')]
def rotten(f): # one bit of the checksum: every voxel can still be decoded
    b = bytearray(f.image(0).read_bytes()); b[-6] ^= 1; f.image(0).write_bytes(b); return [(f.image(0), 'unreadable')]
def no_nifti(f): f.image(0).write_text('a letter to my supervisor'); return [(f.image(0), 'unreadable')]
def empty_file(f): f.label(0).write_bytes(b''); return [(f.label(0), 'unreadable')]
def only_2d(f): rewrite(f.image(0), lambda a: a[..., 0]); return [(f.image(0), 'unreadable')]
def no_image(f): f.image(0).unlink(); return [(f.image(0), 'missing')]
def no_label(f): f.label(0).unlink(); return [(f.label(0), 'missing')]
def surplus_image(f): shutil.copy(f.image(0), f.path/'imagesTr/more.nii.gz'); return [(f.path/'imagesTr/more.nii.gz', 'surplus')]
def surplus_label(f): # where no list names the cases, it is the image that is missing
    shutil.copy(f.label(0), f.path/'labelsTr/more.nii.gz')
    return [(f.path/f'imagesTr/more_{i:04}.nii.gz', 'missing') for i in range(2)] if is_nnunet(f) else [(f.path/'labelsTr/more.nii.gz', 'surplus')]
def label_shape(f): rewrite(f.label(1), lambda a: a[:-1]); return [(f.label(1), 'shape')]
def label_axes(f): rewrite(f.label(1), lambda a: np.moveaxis(a, 0, 2)); return [(f.label(1), 'shape')]
def label_affine(f): rewrite(f.label(1), affine=moved); return [(f.label(1), 'affine')]
def label_tilt(f): rewrite(f.label(1), affine=tilted); return [(f.label(1), 'affine')]
def label_flip(f): rewrite(f.label(1), affine=lambda m: m @ np.diag([-1, 1, 1, 1])); return [(f.label(1), 'affine')]
def label_rounding(f): rewrite(f.label(1), affine=lambda m: m + np.outer([.02, .02, .02, 0], [0, 0, 0, 1])); return [(f.label(1), 'small shift')]
def label_spacing(f): rewrite(f.label(2), affine=lambda m: m @ np.diag([1, 1, 2, 1])); return [(f.label(2), 'spacing')]
def unknown_label(f): rewrite(f.label(2), setting(7)); return [(f.label(2), 'unknown label')]
def negative_label(f): rewrite(f.label(2), setting(-1, dtype='int16')); return [(f.label(2), 'unknown label')]
def soft_label(f): rewrite(f.label(2), setting(.37, dtype='float32')); return [(f.label(2), 'non-integer label')]
def nan_label(f): rewrite(f.label(2), setting(np.nan, dtype='float32')); return [(f.label(2), 'NaN or infinite')]
def empty_label(f): rewrite(f.label(3), np.zeros_like); return [(f.label(3), 'empty label')]
def nan_image(f): rewrite(f.image(3), setting(np.nan, dtype='float32')); return [(f.image(3), 'NaN or infinite')]
def inf_image(f): rewrite(f.test(0), setting(np.inf, dtype='float32')); return [(f.test(0), 'NaN or infinite')]
def two_channels(f): rewrite(f.image(4), lambda a: np.stack([a, a], -1)); return [(f.image(4), 'modalities')]
def copy_in_training(f): # stored in another type
    rewrite_pair(f, 4, 5); return [(f.image(5), 'duplicate')]
def rewrite_pair(f, i, j):
    img = nib.load(f.image(i))
    nib.save(nib.Nifti1Image(np.asarray(img.dataobj).astype('float64'), img.affine), f.image(j)); shutil.copy(f.label(i), f.label(j))
    for k in range(1, len(f.task.modalities)): rewrite_other(f.task.train[j].image[k], f.image(j))
def rewrite_other(path, like):
    img = nib.load(like)
    nib.save(nib.Nifti1Image(img.get_fdata(dtype='float32')**2 + np.float32(.1), img.affine), path)
def copy_in_test(f):
    shutil.copy(f.image(5), f.test(1))
    for k in range(1, len(f.task.modalities)): rewrite_other(f.task.test[1].image[k], f.test(1))
    return [(f.test(1), 'duplicate')]
def other_way_round(f): # the whole case, image and label alike
    for o in [*f.task.train[0].image, f.label(0)]: nib.save(nib.load(o).as_reoriented(np.array([[0, -1], [1, -1], [2, 1]])), o)
    return [(o, 'orientation') for o in f.task.train[0].image]
def raw(path, at, *values): # into the header's bytes: nibabel would not write it
    b = bytearray(gzip.decompress(path.read_bytes()))
    b[at:at + 4*len(values)] = np.array(values, '<f4').tobytes()
    path.write_bytes(gzip.compress(bytes(b)))
def raw_spacing(path, value): raw(path, 80, value)
def raw_affine(path, *values): # from the first value of the first row
    raw(path, 280, *values)
    assert nib.load(path).header['sform_code'] > 0, 'these values are the affine'
def zero_spacing(f): raw_spacing(f.label(1), 0); raw_spacing(f.image(1), 0); return [(f.label(1), 'zero spacing'), (f.image(1), 'zero spacing')] + rest(f, 1, 'spacing')
def rest(f, i, kind): return [(o, kind) for o in f.task.train[i].image[1:]]
def nan_spacing(f): raw_spacing(f.test(0), np.nan); return [(f.test(0), 'zero spacing')]
def metres(f):
    for o in [*f.task.train[0].image, f.label(0)]: rewrite(o, affine=lambda m: m @ np.diag([1e-3, 1e-3, 1e-3, 1]))
    return [(o, 'odd spacing') for o in [*f.task.train[0].image, f.label(0)]]
def contradiction(f):
    for o in [*f.task.train[0].image, f.label(0)]: raw_spacing(o, 2.5)
    return [(o, 'odd spacing') for o in [*f.task.train[0].image, f.label(0)]]
def nan_affine(f): raw_affine(f.image(0), np.nan); raw_affine(f.label(1), *[np.nan]*12); return [(f.image(0), 'broken affine'), (f.label(1), 'broken affine')]
def nan_affine_in_test(f): raw_affine(f.test(0), np.nan, 0, 0, 0); return [(f.test(0), 'broken affine')]
def nan_origin(f): raw_affine(f.label(1), *nib.load(f.label(1)).affine[0, :3], np.nan); return [(f.label(1), 'broken affine')]
def infinite_affine(f): raw_affine(f.image(1), np.inf); return [(f.image(1), 'broken affine')]
def flat_affine(f): raw_affine(f.image(1), 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0); return [(f.image(1), 'broken affine')]
def zero_affine(f): raw_affine(f.label(1), *[0]*12); return [(f.label(1), 'zero spacing')]
def mac(f): (f.path/'imagesTr/._x.nii.gz').write_bytes(b'\0'*90); (f.path/'._labelsTr').write_bytes(b''); return [(f.path/'imagesTr/._x.nii.gz', '._ file'), (f.path/'._labelsTr', '._ file')]

FAULTS = [cut, rotten, no_nifti, empty_file, only_2d, no_image, no_label, surplus_image, surplus_label, label_shape, label_axes, label_affine, label_tilt,
    label_flip, label_rounding, label_spacing, unknown_label, negative_label, soft_label, nan_label, empty_label, nan_image, inf_image, two_channels,
    copy_in_training, copy_in_test, other_way_round, zero_spacing, nan_spacing, metres, contradiction, nan_affine, nan_affine_in_test, nan_origin,
    infinite_affine, flat_affine, zero_affine, mac]

def test_no_alarm_on_clean_copies(folder):
    findings = check(folder)
    assert found(findings) == [] and findings.n_cases == folder.n_cases and 'nothing blocks training, 0 warnings' in str(findings)
    findings.require()

@pytest.mark.parametrize('fault', FAULTS, ids=lambda o: o.__name__)
def test_finds(folder, fault):
    expected = sorted((folder.name(file), kind) for file, kind in fault(folder))
    findings = check(folder)
    assert found(findings) == expected
    for o in findings.rows: assert o.blocks == (KINDS[o.kind][0] and not o.file.startswith('imagesTs')), o
    assert all(o.found and o.expected and o.fix for o in findings.rows)

def test_finds_all_of_them_at_once(folder):
    "Ten faults in different files: one check, ten answers, though `Task.from_folder` refuses the folder at the first."
    expected = [o for fault in (cut, no_label, label_affine, soft_label, empty_label, nan_image, two_channels, copy_in_test, inf_image, mac) for o in fault(folder)]
    findings = check(folder)
    assert found(findings) == sorted((folder.name(file), kind) for file, kind in expected)
    assert [o.blocks for o in findings.rows] == sorted((o.blocks for o in findings.rows), reverse=True), 'what blocks comes first'
    with pytest.raises(FastsegError): Task.from_folder(folder.path)
    with pytest.raises(FastsegError, match='fastseg check'): findings.require()

# what dataset.json says

def test_a_channel_too_many(folder):
    if not is_nnunet(folder): folder.meta(lambda o: o.update(modality={'0': 'T2', '1': 'ADC'}))
    else: shutil.copy(folder.test(0), folder.path/'imagesTr'/folder.image(0).name.replace('_0000', '_0002'))
    assert {o.kind for o in check(folder).blocking} == {'modalities'}

def test_labels_left_out(folder):
    folder.meta(lambda o: o['labels'].pop(next(k for k, v in o['labels'].items() if 2 in (v, int(k) if k.isdigit() else v))))
    findings = check(folder)
    assert found(findings) == sorted((folder.name(o.label), 'unknown label') for o in folder.task.train) and findings.blocking

def test_listed_twice_and_without_label(folder):
    if is_nnunet(folder): pytest.skip('nnU-Net lists no cases')
    def change(meta): meta['training'].append(meta['training'][0]); meta['training'][1].pop('label')
    folder.meta(change)
    assert {(o.file, o.kind) for o in check(folder).blocking} == {(folder.task.train[0].name, 'listed twice'), (folder.name(folder.image(1)), 'missing')}

@pytest.mark.parametrize('text', ['', '{"labels": ', '[]', '{"labels": {"0": "background", "1": "x"}}', None])
def test_broken_dataset_json(folder, text):
    "It is reported as such, and the files are looked at all the same."
    (folder.path/'dataset.json').unlink() if text is None else (folder.path/'dataset.json').write_text(text)
    nan_image(folder)
    findings = check(folder)
    assert {('dataset.json', 'dataset.json'), (folder.name(folder.image(3)), 'NaN or infinite')} <= set(found(findings))

def test_empty_and_absent_folders(tmp_path):
    assert check_task(tmp_path).blocking
    with pytest.raises(FastsegError, match='no task or folder'): check_task(tmp_path/'nowhere')

def test_a_task_is_named_in_any_way(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('FASTSEG_DATA_PATH', str(tmp_path))
    folder.label(0).unlink() # a fault at which `Task.find` stops
    for o in folder.path, str(folder.path), folder.task, '4', 4, 'hippocampus', folder.path.name: assert found(check_task(o)) == [(folder.name(folder.label(0)), 'missing')]
    with pytest.raises(FastsegError, match='fastseg download 3'): check_task('Liver')

# findings

def test_text_table_and_json(folder):
    soft_label(folder), mac(folder)
    findings = check(folder)
    data = json.loads(findings.json_text())
    assert data['blocks'] is True and data['cases'] == folder.n_cases and data['findings'] == [asdict(o) for o in findings.rows]
    assert findings.table()['what to do'].tolist() == [o.fix for o in findings.rows]
    assert all(o.file in str(findings) and o.fix in str(findings) for o in findings.rows)
    (folder.label(2)).unlink()
    with pytest.raises(FastsegError) as e: check(folder).require()
    assert is_one_line(e.value)

def test_only_warnings_are_warned_of(folder):
    empty_label(folder)
    with pytest.warns(UserWarning, match='background only'): check(folder).require()

def test_shows_a_bar_in_a_terminal(folder, capsys, monkeypatch):
    check_task(folder.path)
    assert capsys.readouterr() == ('', ''), 'a log file is no place for a bar'
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    check_task(folder.path)
    assert '100.00%' in capsys.readouterr().out
    with quiet(): check_task(folder.path)
    assert capsys.readouterr() == ('', '')

# copies

def test_copies_are_named_once(folder):
    "However often a scan is there, its cases are one set, and labels are not read for it."
    assert duplicates(folder.task) == []
    for i in 1, 3: rewrite_pair(folder, 0, i)
    copy_in_test(folder)
    folder.label(2).write_bytes(b'')
    names = lambda cases: {o.name for o in cases}
    train, test = folder.task.train, folder.task.test
    assert sorted(duplicates(folder.task), key=len) == [names([train[5], test[1]]), names([train[0], train[1], train[3]])]

def test_one_file_in_common_is_enough(folder):
    "A shares its first modality with B and its second one with C: all three stay together."
    if not is_nnunet(folder): pytest.skip('one file a case')
    a, b, c = folder.task.train[:3]
    shutil.copy(a.image[0], b.image[0])
    shutil.copy(a.image[1], c.image[1])
    assert duplicates(folder.task) == [{a.name, b.name, c.name}]

def test_the_same_file_for_two_modalities_is_no_second_case(folder):
    if not is_nnunet(folder): pytest.skip('one file a case')
    shutil.copy(*folder.task.train[0].image)
    assert duplicates(folder.task) == [] and found(check(folder)) == [(folder.name(folder.task.train[0].image[1]), 'duplicate')]

def test_the_two_hearts(real_data):
    assert duplicates(Task.from_folder(real_data/'Task02_Heart')) == [{'la_005', 'la_026'}]

# the gate

@pytest.fixture
def notes(tmp_path, monkeypatch):
    "The notes of folders that passed."
    monkeypatch.setenv('FASTSEG_RESULTS_PATH', str(tmp_path/'results'))
    return lambda: sorted((tmp_path/'results/preprocessed/checked').glob('*.json'))

def test_a_folder_that_passed_is_not_read_again(folder, notes, monkeypatch):
    require_clean(folder.task)
    assert len(notes()) == 1
    monkeypatch.setattr('fastseg.check.check_task', lambda _: pytest.fail('read again'))
    require_clean(folder.task)

def test_dirty_data_do_not_pass(folder, notes):
    nan_image(folder)
    for _ in range(2):
        with pytest.raises(FastsegError, match='NaN or infinite.*fastseg check'): require_clean(folder.task)
    assert notes() == []

def test_a_file_that_vanished_is_said_in_one_line(folder, notes):
    folder.label(0).unlink()
    with pytest.raises(FastsegError, match='no such file'): require_clean(folder.task)

def test_what_changed_is_read_again(folder, notes):
    "A file, the labels or the rules."
    require_clean(folder.task)
    os.utime(folder.image(0))
    require_clean(Task.from_folder(folder.path))
    assert len(notes()) == 2
    folder.meta(lambda o: o['labels'].update({'more': 3} if is_nnunet(folder) else {'3': 'more'}))
    require_clean(Task.from_folder(folder.path))
    assert len(notes()) == 3

def no_scan_is_good_enough(task, record): yield Finding(record.name, 'shape', 'this', 'that', 'try again', True)

def test_stricter_rules_read_again(folder, notes, monkeypatch):
    require_clean(folder.task)
    monkeypatch.setattr('fastseg.check.CASE_RULES', [*CASE_RULES, no_scan_is_good_enough])
    with pytest.raises(FastsegError, match='try again'): require_clean(folder.task)
    monkeypatch.setattr('fastseg.check.CASE_RULES', CASE_RULES)
    require_clean(folder.task)
    monkeypatch.setitem(KINDS, 'surplus', (True, 'move it elsewhere'))
    require_clean(folder.task)
    assert len(notes()) == 2

def test_warnings_pass_and_are_silent_in_quiet(folder, notes):
    empty_label(folder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with quiet(): require_clean(folder.task)
    assert json.loads(notes()[0].read_text())['warnings'] == 1
    notes()[0].unlink()
    with pytest.warns(UserWarning, match='background only'): require_clean(folder.task)

def test_no_folder():
    with pytest.raises(FastsegError, match='no folder of Task03_Liver.*fastseg download 3'): require_clean(Task.facts('Liver'))

# real folders

@pytest.mark.parametrize('name', ['Task02_Heart', 'Task04_Hippocampus', 'Task101_Glioma', 'Task102_LeftAtrium', 'Task105_Prostate', 'Task109_Spleen'])
def test_no_alarm_on_real_folders(real_data, name):
    "Nothing but what is true: la_005 and la_026 of the Heart data are one scan, voxel by voxel, drawn twice."
    if not (real_data/name).is_dir(): pytest.skip(f'no {name} in {real_data}')
    findings = check_task(real_data/name)
    assert found(findings) == ([('imagesTr/la_026.nii.gz', 'duplicate')] if name == 'Task02_Heart' else [])
    assert not findings.blocking

@pytest.mark.parametrize('name', ['Hippocampus', 'Heart'])
def test_no_alarm_on_phantoms(phantoms, name): assert found(check_task(phantoms(name))) == []
