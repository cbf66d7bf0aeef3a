"Every row of the table of networks is trained, kept, opened again and asked."
import importlib.util
import numpy as np
import pytest
from fastseg.fingerprint import fingerprint
from fastseg.model import NETWORKS, model_parts
from fastseg.phantom import make_phantom, make_pictures, write_volumes
from fastseg.plan import make_plan
from fastseg.question import load_scores
from fastseg.record import Terms
from fastseg.settings import quiet
from fastseg.task import Task
from fastseg.train import measure, train_run
from fastseg.validate import score_run

FLAT = dict(squeeze=[2, 2, 1], strides=[[1, 1, 1], [2, 2, 1], [2, 2, 1]], kernels=[[3, 3, 3]]*3, features=[4, 8, 16])
CUBE = dict(squeeze=[2, 2, 2], strides=[[1, 1, 1], [2, 2, 2], [2, 2, 1]], kernels=[[3, 3, 3]]*3, features=[4, 8, 16])
ASKED = dict( # network → what is asked, arguments
    unet=('outline', CUBE), unet_encoder=('volume', CUBE), slabs=('outline', dict(FLAT, depth=5, overlap=2, recursive=True)),
    slices=('outline', dict(FLAT, kernels=[[3, 3, 1]]*3, context=1)),
    perceiver=('outline', dict(depth=5, overlap=1, recursive=True, squeeze=[8, 8, 1], width=32, latents=8, layers=1)),
    deeplab=('outline', dict(context=1)), timm=('class', dict(model='tf_efficientnet_lite0')),
    monai=('volume', dict(model='resnet10')))

EXTRAS = dict(timm=('timm', 'pictures'), perceiver=('transformers', 'perceiver')) # network → package, extra

def test_every_row_is_tried(): assert set(ASKED) == set(NETWORKS)

@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
    root = tmp_path_factory.mktemp('networks')
    outline = Task.from_folder(make_phantom('Hippocampus', root, n_train=5, n_test=0))
    write_volumes(outline)
    photos = Task.from_folder(make_pictures(root/'photos', n=5))
    return {'outline': outline, 'volume': Task.find(f'{outline.root}#anterior_ml'), 'class': photos}

@pytest.mark.parametrize('name', NETWORKS)
def test_network(name, tasks, tmp_path, monkeypatch):
    monkeypatch.setenv('FASTSEG_RESULTS_PATH', str(tmp_path))
    asked, arguments = ASKED[name]
    extra = EXTRAS.get(name)
    if extra and not importlib.util.find_spec(extra[0]): pytest.skip(f'needs the extra {extra[1]!r}')
    task = tasks[asked]
    with quiet():
        spacing = [100/64, 100/64, 100.] if asked == 'class' else 'auto'
        plan = make_plan(fingerprint(task), spacing=spacing, network=dict(name=name, arguments=arguments))
        plan = plan.change(arithmetic='fp32')
        plan, timing = measure(task, plan, Terms(device='cpu'))
        run = train_run(task, plan, timing, out=tmp_path/'run', terms=Terms(steps=2, device='cpu'))
        score_run(run, task, device='cpu')
    assert plan.network['name'] == name and run.record.steps == 2
    assert {row['case'] for row in load_scores(run.folder/'scores.json').rows} == set(run.cases[1])
    parts = model_parts(run.model('cpu'))
    numbers = sum(p.numel() for part in parts.values() for p in part.parameters())
    assert numbers == run.record.parameters and list(parts)[-1] == 'head', 'every number belongs to one part'
    for part in parts.values(): assert all(np.isfinite(p.detach().numpy()).all() for p in part.parameters())

def test_weights_as_medicalnet_has_them(tasks, tmp_path):
    "Its files hold a state dict under names that begin with 'module.', and a head of another kind; MONAI has the network."
    import torch
    from fastseg.model import build_model, get_weights
    from fastseg.transfer import load_source
    network = dict(name='monai', arguments=dict(model='resnet10', bias_downsample=False, shortcut_type='B'))
    with quiet(): plan = make_plan(fingerprint(tasks['volume']), spacing=[3.]*3, network=network)
    theirs = {name.removeprefix('net.'): w + 1 for name, w in get_weights(build_model(plan, seed=1)).items()}
    theirs = {f'module.{name}': w for name, w in theirs.items() if not name.startswith('fc')}
    torch.save(dict(state_dict=theirs | {'module.conv_seg.0.weight': torch.zeros(3)}), tmp_path/'resnet_10_23dataset.pth')
    model = build_model(plan, seed=2)
    moved = load_source(tmp_path/'resnet_10_23dataset.pth', model)
    assert set(moved.name[moved.action == 'new']) == {'net.fc.weight', 'net.fc.bias'}
    assert set(moved.action) == {'copied', 'new'}
    assert torch.equal(get_weights(model)['net.conv1.weight'], theirs['module.conv1.weight'])
