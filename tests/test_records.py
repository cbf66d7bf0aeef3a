"What is kept beside the notebooks can be read, and no baseline is shown that has learned nothing"
import json
import pytest
from conftest import ROOT
from fastseg.run import records_table
from fastseg.task import TASKS

KEPT = sorted((ROOT/'baselines'/'records').rglob('*.json'))

def test_there_is_a_record_for_every_task():
    assert {o.name[:6] for o in KEPT} == {task.folder_name[:6] for task in TASKS.values()}

@pytest.mark.parametrize('path', KEPT, ids=lambda o: o.stem)
def test_a_kept_baseline_finds_every_label(path):
    "A label that is missed in all cases has not been learned: train longer, or make the phantom learnable"
    for label, row in json.loads(path.read_text())['per_label'].items():
        assert row['missed'] < row['cases'] and row['dice'] > .01, f'{label}: missed in {row["missed"]} of {row["cases"]} cases'

@pytest.mark.parametrize('folder', sorted({o.parent for o in KEPT}), ids=lambda o: o.name)
def test_records_become_a_table(folder):
    table = records_table(folder)
    assert len(table) == len(list(folder.glob('*.json'))) and table.dice.between(0, 1).all()

@pytest.mark.parametrize('path', sorted((ROOT/'experimental'/'records').glob('*.json')), ids=lambda o: o.stem)
def test_a_kept_study_says_how_it_came_about(path):
    kept = json.loads(path.read_text())
    assert {'question', 'steps', 'timing', 'environment', 'plan', 'sentences', 'runs'} <= set(kept)
    assert {run['steps'] for run in kept['runs']} == {kept['steps']}, 'runs of unequal length prove nothing'
