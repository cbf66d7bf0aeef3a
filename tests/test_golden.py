"""The same seeds give what they gave: folds, plan, patches and, after some steps, weights.

Whoever changes these on purpose runs `python tests/test_golden.py`, which writes golden.json anew, and says in the commit
why old runs may differ. Folds are compared exactly. Other numbers are those of one processor; another one rounds
otherwise, and they may differ in the last digits: with AVX2 instead of AVX-512 weights do by one part in a million. The
test allows one in ten thousand."""
import json, sys
from pathlib import Path
import numpy as np
import pytest

GOLDEN = Path(__file__).with_name('golden.json')

def write_balls(root, n=8):
    "A task of bright balls in a dark box, of whole numbers only, so that every machine makes the same files"
    import nibabel as nib
    places, names = np.mgrid[:24, :20, :16], [f'ball_{i}' for i in range(n)]
    for folder in 'imagesTr', 'labelsTr': (root/folder).mkdir(parents=True)
    for i, name in enumerate(names):
        middle = np.array([8 + i, 10, 7 + i % 3])[:, None, None, None]
        label = (((places - middle)**2).sum(0) < 16 + 4*i).astype(np.uint8)
        noise = (places[0]*31 + places[1]*17 + places[2]*(7 + i)) % 23
        image = (noise + 60*label.astype(int)).astype(np.uint8)
        for folder, array in (('imagesTr', image), ('labelsTr', label)):
            nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 2., 1.])), root/folder/f'{name}.nii.gz')
    rows = [dict(image=f'imagesTr/{name}.nii.gz', label=f'labelsTr/{name}.nii.gz') for name in names]
    meta = dict(name='balls', modality={'0': 'MRI'}, labels={'0': 'background', '1': 'ball'}, training=rows, test=[])
    (root/'dataset.json').write_text(json.dumps(meta))

def folds_of(n):
    "Five folds of so many names"
    from fastseg.dataset import kfold
    return [kfold([f'case_{i:03}' for i in range(n)], fold, 5)[1] for fold in range(5)]

def sizes_of(weights):
    "The length of every tensor that was trained, in the order of the network"
    return {name: float(w.double().norm()) for name, w in weights.items() if w.is_floating_point() and w.numel() > 1}

def measured(root):
    "What these seeds give today"
    from fastai.torch_core import set_seed
    from fastseg.dataloaders import dataloaders
    from fastseg.fingerprint import fingerprint
    from fastseg.plan import make_plan
    from fastseg.record import Terms
    from fastseg.settings import quiet
    from fastseg.task import Task
    from fastseg.train import measure, train_run
    write_balls(root/'Balls')
    task = Task.from_folder(root/'Balls')
    plan = make_plan(fingerprint(task), 'cpu', 5)
    small = plan.change(features=[4, 8, 16], patch_size=[16, 16, 16], arithmetic='fp32')
    set_seed(0)
    x, y = dataloaders(task, small, steps=1, device='cpu').train.one_batch()
    with quiet():
        small, timing = measure(task, small, Terms(device='cpu'))
        run = train_run(task, small, timing, out=root/'run', terms=Terms(steps=9, device='cpu'))
    patches = dict(mean=float(x.double().mean()), deviation=float(x.double().std()), share=float(y.double().mean()))
    losses = [row['train_loss'] for row in run.log]
    return dict(folds=folds_of(23), plan=plan.choices, patches=patches, losses=losses, weights=sizes_of(run.weights))

@pytest.fixture(scope='module')
def today(tmp_path_factory):
    import torch
    root, threads = tmp_path_factory.mktemp('golden'), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as mp:
        for o in 'MODELS', 'RESULTS': mp.setenv(f'FASTSEG_{o}_PATH', str(root/o.lower()))
        yield json.loads(json.dumps(measured(root))) # as the file has it
    torch.set_num_threads(threads)

@pytest.fixture(scope='module')
def golden(): return json.loads(GOLDEN.read_text())

def test_folds_stay(today, golden): assert today['folds'] == golden['folds']

def test_a_plan_stays(today, golden): assert today['plan'] == golden['plan']

@pytest.mark.parametrize('what', ['patches', 'losses', 'weights'])
def test_training_stays(today, golden, what): assert today[what] == pytest.approx(golden[what], rel=1e-4)

if __name__ == '__main__':
    import os, tempfile, torch
    root = Path(tempfile.mkdtemp())
    for o in 'MODELS', 'RESULTS': os.environ[f'FASTSEG_{o}_PATH'] = str(root/o.lower())
    torch.set_num_threads(1)
    (Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN).write_text(json.dumps(measured(root), indent=1) + '\n')
