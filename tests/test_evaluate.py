"Scores against MONAI's own, against every fault in a folder, and on real cases"
import json
import nibabel as nib, numpy as np, pytest
from conftest import is_one_line
from fastseg.settings import FastsegError
from fastseg.task import Task, load_label
from fastseg.evaluate import Scores, evaluate, score_case

NAMES = {1: 'one', 2: 'two'}


def blobs(shape=(40, 36, 24), seed=0):
    "Two labels of smooth random shape, [W,H,D]"
    from scipy.ndimage import gaussian_filter
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return np.digitize(smooth, np.quantile(smooth, (.8, .93))).astype(np.uint8)


def write(folder, cases, affine=np.diag([1.25, 1.25, 2, 1.])):
    folder.mkdir(parents=True, exist_ok=True)
    for name, a in cases.items(): nib.save(nib.Nifti1Image(a, affine), folder/f'{name}.nii.gz')
    return folder


@pytest.fixture
def pair(tmp_path):
    "Folders of predictions and labels, three cases, without dataset.json"
    targets = {f'case_{i}': blobs(seed=i) for i in range(3)}
    return write(tmp_path/'pred', {n: np.roll(a, 1, 0) for n, a in targets.items()}), write(tmp_path/'task'/'labelsTr', targets)


def one_line(error): return is_one_line(error.value)


@pytest.mark.parametrize('spacing', [(1., 1., 1.), (.5, .5, 3.), (1.25, 1.25, 1.37)])
def test_same_distances_as_monai(spacing):
    torch, metrics = pytest.importorskip('torch'), pytest.importorskip('monai.metrics')
    p, t = blobs(seed=1), blobs(seed=2)
    p[:3], t[-1] = 1, 2  # masks that touch the edge of the array
    for row in score_case(p, t, NAMES, spacing, tolerance=2.).values():
        a, b = (torch.as_tensor(x == row['label'])[None, None].float() for x in (p, t))
        hd = metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
        nsd = metrics.compute_surface_dice(a, b, [2.0001], include_background=True, spacing=spacing)
        asd = metrics.compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing)
        dice = metrics.compute_dice(a, b, include_background=True)
        own = [row[name] for name in ('hd95_mm', 'nsd', 'asd_mm', 'dice')]
        np.testing.assert_allclose(own, [o.item() for o in (hd, nsd, asd, dice)], rtol=1e-5)


def test_absent_labels():
    t = blobs()
    only_one, spacing = np.where(t == 1, 1, 0).astype(np.uint8), (1, 1, 3)
    diagonal = np.linalg.norm(np.multiply(t.shape, spacing))
    for p, q in ((only_one, t), (t, only_one)):
        assert score_case(p, q, NAMES, spacing)['two'] | dict(dice=0, nsd=0, hd95_mm=diagonal, asd_mm=diagonal) == score_case(p, q, NAMES, spacing)['two']
    both = score_case(only_one, only_one, NAMES, spacing)
    assert both['one']['dice'] == 1 and all(np.isnan(both['two'][m]) for m in ('dice', 'hd95_mm', 'nsd', 'asd_mm'))
    assert np.isnan(score_case(t*0, t*0, NAMES, spacing)['one']['dice'])


def test_means_and_file(pair, tmp_path):
    pred, labels = pair
    a, affine = load_label(labels/'case_0.nii.gz')
    for f in (pred, labels): write(f, dict(case_0=np.where(a == 2, 0, a)))  # label 2 in neither
    scores = evaluate(pred, labels, out=tmp_path/'deep'/'scores.json')
    assert scores.means.loc['label 2', 'cases'] == 2 and scores.means.loc['label 1', 'cases'] == 3
    by_hand = np.mean([scores.table.query('label == @k').dice.dropna().mean() for k in (1, 2)])
    np.testing.assert_allclose(scores.mean['dice'], by_hand)
    text = (tmp_path/'deep'/'scores.json').read_text()
    assert 'NaN' not in text and 'Infinity' not in text and json.loads(text)['per_case'][1]['dice'] is None
    again = Scores.load(tmp_path/'deep'/'scores.json')
    assert again.mean == scores.mean and again.table.equals(scores.table) and again.summary() == scores.summary()
    assert list(tmp_path.glob('deep/*')) == [tmp_path/'deep'/'scores.json']


@pytest.mark.parametrize('labels', [{'0': 'background', '1': 'A', '2': 'B'}, {'background': 0, 'A': 1, 'B': 2}])
def test_names_from_dataset_json(pair, labels):
    pred, folder = pair
    (folder.parent/'dataset.json').write_text(json.dumps(dict(labels=labels)))
    assert evaluate(pred, folder).means.index.tolist() == ['A', 'B']
    (folder.parent/'dataset.json').write_text('{"labels": {"0": "background", "1": "A"}}')
    with pytest.raises(FastsegError, match='label 2 in') as e: evaluate(pred, folder)
    assert one_line(e)
    (folder.parent/'dataset.json').write_text('[]')
    with pytest.raises(FastsegError): evaluate(pred, folder)


def lose(pred, labels): (pred/'case_1.nii.gz').unlink()
def no_nifti(pred, labels): (pred/'case_1.nii.gz').write_text('not an image')
def cut_short(pred, labels): (pred/'case_1.nii.gz').write_bytes((pred/'case_1.nii.gz').read_bytes()[:900])
def other_shape(pred, labels): write(pred, dict(case_1=blobs((40, 36, 23))))
def other_spacing(pred, labels): write(pred, dict(case_1=blobs()), np.diag([1.25, 1.25, 2.01, 1]))
def beside(x): return np.array([[1.25, 0, 0, x], [0, 1.25, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]) # moved by x mm
def moved(pred, labels): write(pred, dict(case_1=blobs()), beside(.15)) # 0.12 voxels
def flipped(pred, labels): write(pred, dict(case_1=blobs()), np.diag([-1.25, 1.25, 2, 1]))
def fractions(pred, labels): write(pred, dict(case_1=blobs().astype(np.float32) + .3))
def empty(pred, labels): [f.unlink() for f in pred.iterdir()]
def no_folder(pred, labels): (empty(pred, labels), pred.rmdir())
def no_labels(pred, labels): [f.unlink() for f in labels.iterdir()]


@pytest.mark.parametrize('fault,says', [(lose, 'no prediction for 1 of 3'), (no_nifti, 'not readable'), (cut_short, 'damaged'), (other_shape, 'of shape'),
    (other_spacing, 'affine'), (moved, 'affine'), (flipped, 'affine'), (fractions, 'whole numbers'), (empty, 'no NIfTI file'), (no_folder, 'no predictions at'),
    (no_labels, 'no NIfTI file')], ids=lambda o: getattr(o, '__name__', ''))
def test_faults_say_one_line_and_write_nothing(pair, tmp_path, fault, says):
    fault(*pair)
    with pytest.raises(FastsegError, match=says) as e: evaluate(*pair, out=tmp_path/'scores.json')
    assert one_line(e) and not (tmp_path/'scores.json').exists()


def test_what_check_lets_pass_is_scored(pair):
    "Up to a tenth of a voxel: a run that was trained on rounded headers must be scored in the end."
    whole = evaluate(*pair).table
    write(pair[0], dict(case_1=np.roll(blobs(seed=1), 1, 0)), beside(.1)) # mm, of voxels of 1.25
    assert evaluate(*pair).table.dice.tolist() == whole.dice.tolist()


def test_ghosts_surplus_and_chosen_cases(pair):
    pred, labels = pair
    (labels/'._case_0.nii.gz').write_text('ghost')
    write(pred, dict(extra=blobs()))
    assert evaluate(pred, labels).not_scored == ['extra']
    assert evaluate(pred, labels, cases=['case_2']).table.case.unique().tolist() == ['case_2']
    assert evaluate(sorted(pred.glob('case_*')), sorted(labels.glob('case_*')), labels=NAMES).means.index.tolist() == ['one', 'two']


def test_a_real_heart_moved_by_one_voxel(real_data):
    task = Task.from_folder(real_data/'Task02_Heart')
    label, affine = load_label(task.train[0].label)
    score = score_case(np.roll(label, 1, 0), label, task.labels, nib.affines.voxel_sizes(affine))['left atrium']
    assert score['dice'] > .9 and score['nsd'] == 1 and abs(score['hd95_mm'] - 1.25) < .01


def by_simpleitk(p, t, spacing, tolerance):
    "Dice, HD95 in mm and NSD of two masks, by SimpleITK alone"
    sitk = pytest.importorskip('SimpleITK')
    images = [sitk.GetImageFromArray(np.pad(mask, 1).T.astype(np.uint8)) for mask in (p, t)] # an edge has a border, too
    for image in images: image.SetSpacing(spacing)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    borders = [sitk.LabelContour(image, False) for image in images]
    maps = [np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(o, False, False, True))) for o in borders]
    here, there = (sitk.GetArrayFromImage(o) > 0 for o in borders)
    ways = maps[1][here], maps[0][there]
    within = sum((way <= tolerance).sum() for way in ways)/sum(map(len, ways))
    return overlap.GetDiceCoefficient(), max(np.percentile(way, 95) for way in ways), within


def awkward(shape=(20, 18, 12)):
    "Pairs of masks that are hard to score: a single voxel, a plate, everything, two islands"
    one, plate, all_of_it, islands = (np.zeros(shape, np.uint8) for _ in range(4))
    one[5, 5, 5], plate[:, 3], all_of_it[:], islands[2:5, 2:5, 2:5] = 1, 1, 1, 1
    islands[15:18, 14:17, 8:10] = 1
    masks = one, plate, all_of_it, islands
    return [(a, b) for a in masks for b in masks]


def agree(p, t, spacing):
    "Our scores, MONAI's and SimpleITK's, within 0.001"
    torch, metrics = pytest.importorskip('torch'), pytest.importorskip('monai.metrics')
    own = score_case(p, t, {1: 'one'}, spacing)['one']
    a, b = (torch.as_tensor(x == 1)[None, None].float() for x in (p, t))
    more = dict(include_background=True, spacing=spacing)
    theirs = (metrics.compute_dice(a, b).item(), metrics.compute_hausdorff_distance(a, b, percentile=95, **more).item(),
        metrics.compute_surface_dice(a, b, [2.0001], **more).item())
    for found in (theirs, by_simpleitk(p == 1, t == 1, spacing, 2.0001)):
        np.testing.assert_allclose([own['dice'], own['hd95_mm'], own['nsd']], found, atol=1e-3)


@pytest.mark.parametrize('spacing', [(1., 1., 1.), (.7, .7, 5.)])
def test_three_implementations_agree_on_awkward_masks(spacing):
    for p, t in awkward(): agree(p, t, spacing)


def test_three_implementations_agree_on_real_cases(real_data):
    "Twenty real hippocampi, each against itself, moved and gnawed at by chance"
    task, rng = Task.from_folder(real_data/'Task04_Hippocampus'), np.random.default_rng(0)
    for case in task.train[:20]:
        label, affine = load_label(case.label)
        moved = np.roll(label, rng.integers(-2, 3, 3), (0, 1, 2))
        moved[rng.random(moved.shape) < .1] = 0
        agree((moved == 1).astype(np.uint8), (label == 1).astype(np.uint8), tuple(map(float, nib.affines.voxel_sizes(affine))))
