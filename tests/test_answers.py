"Numbers and classes from the command line: the same verbs, the same care, and nothing said that is not in the record."
import csv, json, shutil, tarfile
import numpy as np
import pytest
from fastseg.cli import main
from fastseg.dataset import split_groups
from fastseg.phantom import make_phantom, make_pictures, write_volumes
from fastseg.question import QUESTIONS, load_scores
from fastseg.run import Run
from fastseg.study import Study
from fastseg.task import Task

@pytest.fixture(scope='module')
def home(tmp_path_factory): return tmp_path_factory.mktemp('answers')

@pytest.fixture(autouse=True)
def places(home, monkeypatch):
    for o in 'DATA', 'MODELS', 'RESULTS': monkeypatch.setenv(f'FASTSEG_{o}_PATH', str(home/o.lower()))

@pytest.fixture(scope='module')
def volumes(home):
    "Ten phantoms of hippocampi, two of each person, and their volumes."
    task = Task.from_folder(make_phantom('Hippocampus', home/'data', n_train=10, n_test=1))
    write_volumes(task, [f'p{i//2}' for i in range(10)])
    return f'{task.root}#anterior_ml'

@pytest.fixture(scope='module')
def photos(home): return make_pictures(home/'photos', n=8)

@pytest.fixture(scope='module')
def run_of(home):
    "A trained run of a task, by its name; trained once."
    made = {}
    def trained(name, task, steps=6):
        from fastseg.baseline import plan_baseline, train_baseline
        from fastseg.record import Terms
        if name not in made:
            task = Task.find(task)
            spacing = [1.5]*3 if task.asks != 'class' else [100/32, 100/32, 100.]
            plan = plan_baseline(task, .1, spacing=spacing).change(features=[8, 16, 32], arithmetic='fp32')
            made[name] = train_baseline(task, Terms(steps=steps), out=home/name, plan=plan)
        return made[name]
    return trained

def one_line(capsys, argv, *words):
    "A command ends with exit code 2 and one line."
    code = main([str(o) for o in argv])
    err = [o for o in capsys.readouterr().err.splitlines() if not o.startswith('warning:')]
    assert code == 2 and len(err) == 1 and err[0].startswith('fastseg '), (code, err)
    for word in words: assert word in err[0], err[0]

# the way through

def test_check_and_plan(volumes, photos, capsys):
    for task, words in ((volumes, ['number', 'labels anterior_ml']), (photos, ['class', 'labels round, square'])):
        assert main(['check', str(task)]) == 0
        assert main(['plan', str(task), '--minutes', '1']) == 0
        out = capsys.readouterr().out
        for word in ['nothing blocks training', 'unet_encoder', *words]: assert word in out

def test_a_number(volumes, run_of, home, capsys):
    run = run_of('number', volumes)
    scores = load_scores(run.folder/'scores.json')
    assert scores.asks == 'number' and len(scores.rows) == len(run.cases[1])
    page = (run.folder/'report.html').read_text()
    assert 'Mean absolute error' in page and ' ml on ' in page
    task = Task.find(volumes)
    assert main(['predict', str(run.folder), str(task.root/'imagesTr'), '--out', str(home/'all.csv')]) == 0
    assert main(['evaluate', str(home/'all.csv'), volumes, '--out', str(home/'all.json')]) == 0
    assert 'median_predictor' in capsys.readouterr().out
    rows = {row['case']: float(row['answer']) for row in csv.DictReader((home/'all.csv').open())}
    assert set(rows) == {o.name for o in task.train}
    again = {row['case']: row['answer'] for row in scores.rows}
    for case, answer in again.items(): assert rows[case] == pytest.approx(answer, abs=1e-5)
    kept = load_scores(home/'all.json')
    assert kept.mean['error'] == pytest.approx(np.mean([abs(rows[o.name] - o.target) for o in task.train]))

def test_a_class(photos, run_of, home, capsys):
    run = run_of('class', photos)
    with tarfile.open(home/'photos.tar', 'w') as tar: tar.add(photos, '.')
    assert main(['predict', str(run.folder), str(home/'photos.tar'), '--out', str(home/'packed.json')]) == 0
    assert main(['predict', str(run.folder), str(photos), '--out', str(home/'folder.csv')]) == 0
    packed = {row['case']: row for row in json.loads((home/'packed.json').read_text())}
    folder = {row['case']: row for row in csv.DictReader((home/'folder.csv').open())}
    assert set(packed) == set(folder) and len(packed) == 16
    for case, row in packed.items():
        assert row['p_round'] + row['p_square'] == pytest.approx(1, abs=1e-5)
        assert float(folder[case]['p_round']) == pytest.approx(row['p_round'], abs=1e-5)
        assert row['answer'] == ('round' if row['p_round'] > row['p_square'] else 'square')
    assert main(['evaluate', str(home/'packed.json'), str(photos)]) == 0
    assert 'log loss' in capsys.readouterr().out
    assert Task.find(home/'photos.tar').labels == Task.find(photos).labels
    assert main(['check', str(home/'photos.tar')]) == 0

def test_outlines_lend_their_encoder_to_volumes(volumes, run_of, home, capsys):
    source = run_of('outlines', volumes.partition('#')[0])
    argv = ['transfer', source.folder, volumes, '--steps', 4, '--labels', 2, '--test', 2, '--seeds', 0, 1, '--schedule',
        'all_at_once', '--spacing', 1.5, 1.5, 1.5, '--out', home/'study']
    assert main([str(o) for o in argv]) == 0
    out = capsys.readouterr().out
    assert 'Mean absolute error' in out and 'a gain of' in out
    study = Study.load(home/'study')
    (result,) = study.results
    assert result.result['pairs'] == 2 and result.result['cases'] == 2, 'two people, four scans'
    assert {len(run['train']) for run in study.runs} == {4}, 'two labelled people, both scans of each'
    moved = json.loads((Run.load(study.runs[1]['folder']).folder/'start.json').read_text())
    acts = {row['part']: row['action'] for row in moved if row['parameter']}
    assert acts['head'] == 'new' and {v for k, v in acts.items() if k != 'head'} == {'copied'}
    assert Study.load(study.keep(home/'kept.json')).results[0].verdict == result.verdict

def test_a_number_that_is_known(volumes, run_of, home, capsys):
    "What the head is told beside the scan: learned with, scored with, asked for in prediction, left out by an arm."
    from fastseg.record import Terms
    from fastseg.study import run_study
    from fastseg.trials import SCRATCH, Arm, Design
    told = f'{volumes}+posterior_ml'
    assert main(['check', told]) == 0 and main(['plan', told, '--minutes', '1']) == 0
    assert 'posterior_ml centre' in capsys.readouterr().out
    run = run_of('told', told)
    task = Task.find(told)
    known = [dict(task.case(name).known)['posterior_ml'] for name in run.cases[0]]
    assert run.plan.known['posterior_ml']['centre'] == pytest.approx(np.mean(known)), 'scaled by those who train'
    assert main(['predict', str(run.folder), str(task.root/'imagesTr'), '--out', str(home/'told.csv')]) == 0
    rows = {row['case']: float(row['answer']) for row in csv.DictReader((home/'told.csv').open())}
    for row in load_scores(run.folder/'scores.json').rows: assert rows[row['case']] == pytest.approx(row['answer'], abs=1e-5)
    (home/'elsewhere').mkdir()
    scan = shutil.copy(task.train[0].image[0], home/'elsewhere')
    one_line(capsys, ['predict', run.folder, scan, '--out', home/'one.csv'], 'no posterior_ml of', 'targets.csv')
    (home/'elsewhere/targets.csv').write_text(f'case,posterior_ml\n{task.train[0].name},900')
    assert main(['predict', str(run.folder), scan, '--out', str(home/'one.csv')]) == 0
    (row,) = csv.DictReader((home/'one.csv').open())
    assert abs(float(row['answer']) - rows[task.train[0].name]) > 1e-3, 'the head hears it'
    one_line(capsys, ['baseline', volumes, '--minutes', 1, '--plan', run.folder/'plan.json'], 'is told posterior_ml', '+')
    one_line(capsys, ['plan', f'{volumes}+weight'], "no column 'weight'")
    one_line(capsys, ['plan', f'{volumes}+anterior_ml'], 'an answer is not told')
    deaf = Arm('not told', changes=dict(known={}))
    study = run_study(told, [SCRATCH, deaf], design=Design((2,), seeds=(0, 1), test=2), terms=Terms(steps=4), plan=run.plan)
    by_arm = {one['arm']: Run.load(one['folder']).plan.channels for one in study.runs}
    assert by_arm == {'scratch': 2, 'not told': 1}

def test_a_network_that_takes_no_numbers(volumes, capsys):
    told = f'{volumes}+posterior_ml'
    words = ['plan', told, '--minutes', 1, '--spacing', 3, 3, 3, '--network', 'monai:resnet10']
    one_line(capsys, words, "network 'monai', to be told posterior_ml", 'unet_encoder', 'leave out')

def test_baseline_and_transfer_by_their_verbs(volumes, photos, run_of, home, capsys):
    for task, run, said in ((volumes, run_of('number', volumes), 'absolute error'), (photos, run_of('class', photos), 'log loss')):
        out = home/f'by_verb_{said[:3]}'
        argv = ['baseline', task, '--minutes', .02, '--plan', run.folder/'plan.json', '--out', out]
        assert main([str(o) for o in argv]) == 0
        assert said in capsys.readouterr().out and said in (out/'report.html').read_text()
    argv = ['transfer', run.folder, photos, '--steps', 2, '--labels', 4, '--test', 6, '--seeds', 0, 1, '--schedule',
        'all_at_once', '--spacing', 100/32, 100/32, 100, '--out', home/'classes']
    assert main([str(o) for o in argv]) == 0
    assert 'log loss' in capsys.readouterr().out and len(Study.load(home/'classes').runs) == 4

def test_weights_without_a_run(volumes, home, capsys):
    "They say nothing of their network, so the plan does."
    from fastseg.model import build_model, get_weights, save_tensors
    from fastseg.plan import Plan
    path, weights = home/'resnet.json', home/'bare.safetensors'
    argv = ['plan', volumes, '--minutes', 1, '--spacing', 3, 3, 3, '--network', 'monai:resnet10', '--out', path]
    assert main([str(o) for o in argv]) == 0
    plan = Plan.load(path)
    save_tensors(weights, get_weights(build_model(plan, seed=1)))
    argv = ['transfer', weights, volumes, '--steps', 2, '--labels', 2, '--test', 2, '--seeds', 0, 1, '--schedule',
        'all_at_once', '--target-plan', path, '--out', home/'bare']
    assert main([str(o) for o in argv]) == 0
    study = Study.load(home/'bare')
    assert study.plan.network == dict(name='monai', arguments=dict(model='resnet10'))
    kept = {row['case'] for row in study.runs[0]['scores']}
    known = [case.target for case in Task.find(volumes).train if case.name not in kept]
    assert study.plan.answer['centre'] == pytest.approx(np.mean(known)) != plan.answer['centre'], 'of those who train'
    one_line(capsys, ['plan', volumes, '--network', 'resnet10'], "network 'resnet10'", 'monai:NAME')
    one_line(capsys, ['plan', volumes, '--network', 'deeplab'], 'deeplab')
    one_line(capsys, ['plan', volumes, '--network', 'monai:resnet11'], 'resnet11')

def test_nobody_is_on_both_sides(volumes):
    task = Task.find(volumes)
    who = {o.name: o.who for o in task.train}
    for fold in range(5):
        train, valid = split_groups(task.train, fold)
        assert not {who[o] for o in train} & {who[o] for o in valid} and len(train) + len(valid) == 10

def test_nobody_is_blocked_for_a_name(volumes, home, capsys):
    "In nnU-Net's layout a test file may have the name of a training file: nobody has said that it is one person."
    root = shutil.copytree(Task.from_folder(home/'data'/'Task04_Hippocampus').root, home/'same')
    meta = json.loads((root/'dataset.json').read_text())
    first = meta['training'][0]['image'].split('/')[-1]
    (root/'imagesTs').rename(root/'other')
    (root/'imagesTs').mkdir()
    shutil.copy(next((root/'other').iterdir()), root/'imagesTs'/first)
    shutil.rmtree(root/'other')
    (root/'targets.csv').unlink(missing_ok=True)
    (root/'dataset.json').write_text(json.dumps(dict(meta, test=[f'./imagesTs/{first}'])))
    assert main(['check', str(root)]) == 0, capsys.readouterr().out

# what must stay as it was

def test_a_plan_of_voxels_says_nothing_new(volumes):
    "Names of runs and studies hang on the choices of their plan."
    from fastseg.fingerprint import fingerprint
    from fastseg.plan import make_plan
    assert 'answer' not in make_plan(fingerprint(Task.find(volumes.partition('#')[0]))).choices
    assert [o.name for o in QUESTIONS['voxels'].metrics] == ['dice', 'hd95_mm', 'nsd']

# what cannot be

def test_bad_numbers(volumes, run_of, home, capsys):
    root = shutil.copytree(volumes.partition('#')[0], home/'bad')
    one_line(capsys, ['plan', f'{root}#weight'], "no column 'weight'", 'one of anterior_ml')
    table = (root/'targets.csv').read_text().splitlines()
    (root/'targets.csv').write_text('\n'.join([table[0], table[1].rsplit(',', 2)[0] + ',nan,1', *table[2:]]))
    one_line(capsys, ['baseline', f'{root}#anterior_ml', '--minutes', 1], 'no anterior_ml of case', 'a number')
    assert main(['check', f'{root}#anterior_ml']) == 1 and 'no anterior_ml in targets.csv' in capsys.readouterr().out
    (root/'targets.csv').write_text('name\n1\n')
    one_line(capsys, ['plan', f'{root}#anterior_ml'], 'with the columns name')
    run = run_of('number', volumes)
    one_line(capsys, ['predict', run.folder, f'{root}/imagesTr', '--out', home/'folder'], 'a table, .csv or .json')
    assert not (home/'folder').exists()
    (home/'lost.csv').write_text('case,answer\n')
    one_line(capsys, ['evaluate', home/'lost.csv', volumes], 'no answer for 10 of 10 cases')

def test_bad_pictures(photos, run_of, home, capsys):
    alone = shutil.copytree(photos, home/'alone')
    shutil.rmtree(alone/'square')
    assert main(['check', str(alone)]) == 1 and 'one class, round' in capsys.readouterr().out
    torn = shutil.copytree(photos, home/'torn')
    (torn/'round/000.png').write_bytes((torn/'round/000.png').read_bytes()[:60])
    assert main(['check', str(torn)]) == 1 and 'not readable as a picture' in capsys.readouterr().out
    run = run_of('class', photos)
    one_line(capsys, ['predict', run.folder, torn, '--out', home/'some.csv'], '1 of 16 scans', 'round_000')
    assert len(list(csv.DictReader((home/'some.csv').open()))) == 15, 'the others are answered'
    (home/'cut.tar').write_bytes(b'no archive')
    one_line(capsys, ['predict', run.folder, home/'cut.tar', '--out', home/'cut.csv'], 'not readable as an archive')
