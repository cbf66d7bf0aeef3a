"Every kind of task trains without a line being edited: 4D, CT, thick slices, few cases; and a source beside its target"
import json
from pathlib import Path
import nibabel as nib, numpy as np, pytest, torch
from fastseg.cli import main
from test_baseline import handful, places # noqa: F401 (a fixture)

FOLDERS = {'Task02_Heart': 6, 'Task102_LeftAtrium': 5, 'Task101_Glioma': 2, 'Task105_Prostate': 1, 'Task109_Spleen': 1}


@pytest.mark.parametrize('name', FOLDERS)
@pytest.mark.filterwarnings('ignore')
def test_real_folder_end_to_end(real_data, places, name):
    "A few steps on real cases; predictions in the scan's own geometry; a score for every label of every case kept apart"
    task, run = handful(real_data/name, places/'data'/name, FOLDERS[name]), places/'run'
    assert main(['baseline', str(task), '--minutes', '.05', '--out', str(run), '--device', 'cpu', '--quiet']) == 0
    meta, split, scores = json.loads((task/'dataset.json').read_text()), *(json.loads((run/n).read_text()) for n in ('split.json', 'scores.json'))
    assert len(scores['per_case']) == len(split['valid'])*(len(meta['labels']) - 1)
    for case in split['valid']:
        scan, label = nib.load(task/f'imagesTr/{case}.nii.gz'), nib.load(run/f'predictions/{case}.nii.gz')
        assert label.shape == scan.shape[:3] and np.abs(label.affine - scan.affine).max() < 1e-4
        assert set(np.unique(label.dataobj)) <= {int(k) for k in meta['labels']}
    plan = json.loads((run/'plan.json').read_text())
    assert len(plan['modalities']) == len(meta['modality']) and all(plan['reasons'][k] for k in ('spacing', 'patch_size', 'normalisation'))


def test_thick_slices_are_left_alone(real_data, places):
    "Prostate, 0.5 x 0.5 x 3 mm: no squeezing or halving across slices at first, and CT has its own scale"
    from fastseg.fingerprint import fingerprint
    from fastseg.plan import make_plan
    from fastseg.task import Task
    net = make_plan(fingerprint(Task.from_folder(real_data/'Task105_Prostate'))).network['arguments']
    assert net['squeeze'] == [2, 2, 1] and net['kernels'][0][2] == 1 and net['strides'][1][2] == 1
    spleen = make_plan(fingerprint(Task.from_folder(real_data/'Task109_Spleen')))
    assert spleen.normalisation[0]['kind'] == 'ct' and -200 < spleen.normalisation[0]['low'] < spleen.normalisation[0]['high'] < 400


def test_two_tasks_in_one_kernel(real_data, places):
    "Heart and Hippocampus side by side: a foreign DataBlock between them changes neither spacing nor patches"
    from fastMONAI.vision_core import MedBase, MedImage
    from fastMONAI.vision_data import MedDataBlock, MedMaskBlock
    from fastai.vision.data import ImageBlock
    from fastseg.dataloaders import dataloaders
    from fastseg.fingerprint import fingerprint
    from fastseg.plan import make_plan
    from fastseg.task import Task
    served = {}
    for name, n in (('Task04_Hippocampus', 5), ('Task02_Heart', 5)):
        task = Task.from_folder(handful(real_data/name, places/'data'/name, n))
        plan = make_plan(fingerprint(task), minutes=5)
        dls = dataloaders(task, plan, steps=1, device='cpu')
        served[name] = plan, dls, dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    try:
        MedDataBlock(blocks=(ImageBlock(cls=MedImage), MedMaskBlock()), apply_reorder=True, target_spacing=[3, 3, 3]) # what a tutorial would do
        for plan, dls, before in served.values():
            assert torch.equal(dls.valid.one_batch()[0].as_subclass(torch.Tensor), before)
            assert list(before.shape[2:]) == plan.patch_size
    finally: MedBase.item_preprocessing(None, False)
    assert served['Task02_Heart'][0].spacing != served['Task04_Hippocampus'][0].spacing
