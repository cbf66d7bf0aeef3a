"What is generated is in step with what it is generated from."
import shutil
import pytest
from conftest import ROOT, run

NOTEBOOKS = sorted(o for d in ('nbs', 'baselines', 'experimental', 'data') for o in (ROOT/d).glob('*.ipynb'))

@pytest.fixture
def copy(tmp_path):
    "A copy of what a person writes by hand, without anything generated from it."
    for o in 'settings.ini', 'pyproject.toml': shutil.copy(ROOT/o, tmp_path)
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.*', '_proc'))
    return tmp_path

def test_library_is_exported(copy):
    run('-c', 'from nbdev.doclinks import nbdev_export as f; f()', cwd=copy)
    new, old = ({o.name: o.read_text() for o in (d/'fastseg').glob('*.py')} for d in (copy, ROOT))
    assert set(new) == set(old), 'a module without its notebook, or the other way round: run `make export`'
    stale = [o for o in new if new[o] != old[o]]
    assert not stale, f'{stale} differ from their notebooks: edit the notebook, then run `make export`'
    assert (copy/'pyproject.toml').read_text() == (ROOT/'pyproject.toml').read_text()

def test_readme_is_rendered(tmp_path):
    run('-m', 'nbconvert', '--config', '.ci/readme.json', '--output-dir', str(tmp_path))
    for o in (o for o in tmp_path.rglob('*') if o.is_file()):
        old = ROOT/o.relative_to(tmp_path)
        same = old.is_file() and old.read_bytes() == o.read_bytes()
        assert same, f'{old.name} is not what nbs/index.ipynb makes: run `make readme`'

def test_notebooks_are_clean(tmp_path):
    for o in 'settings.ini', 'pyproject.toml': shutil.copy(ROOT/o, tmp_path)
    copies = {path: tmp_path/'nbs'/path.parent.name/path.name for path in NOTEBOOKS}
    for path, copied in copies.items():
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    run('-c', 'from nbdev.clean import nbdev_clean as f; f("nbs")', cwd=tmp_path)
    changed = [path.name for path, copied in copies.items() if copied.read_bytes() != path.read_bytes()]
    assert not changed, f'{changed}: run `make export`'

def test_docs_can_be_built(copy):
    """Everything that nbdev_docs does before it calls Quarto, which need not be installed: nbdev.yml follows from
    settings.ini, and every notebook is made ready for the website."""
    shutil.copytree(ROOT/'fastseg', copy/'fastseg')
    run('-c', 'import nbdev.quarto as q; q._ensure_quarto = lambda: None; q._pre_docs(n_workers=0)', cwd=copy)
    for o in 'nbdev.yml', '_quarto.yml': assert (copy/'nbs'/o).read_text() == (ROOT/'nbs'/o).read_text()
    made = {o.name for o in (copy/'_proc').glob('*.ipynb')}
    assert made == {o.name for o in (ROOT/'nbs').glob('*.ipynb')}
