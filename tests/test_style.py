"The house style that can be counted (DESIGN: one idea per notebook, short cells, shown and tested at once)."
import ast, json, re
from statistics import median
import pytest
from conftest import ROOT
from house import faults

HEADINGS = ['The task', 'See the data', 'The plan', 'Train', 'Predict and score', 'Where it fails', 'Exercises']

class Notebook:
    "A notebook as text: its code cells, their lines that count, and its prose."
    def __init__(self, path):
        whole = json.loads(path.read_text(encoding='utf-8'))
        self.path, self.cells, self.metadata = path, whole['cells'], whole['metadata']
        self.code  = [''.join(c['source']) for c in self.cells if c['cell_type'] == 'code']
        self.prose = '\n'.join(''.join(c['source']) for c in self.cells if c['cell_type'] == 'markdown')
        self.lines = [[l for l in c.splitlines() if l.strip() and not l.lstrip().startswith('#|')] for c in self.code]
    def __str__(self): return f'{self.path.parent.name}/{self.path.name}'

ALL = [Notebook(o) for d in ('nbs', 'baselines', 'experimental', 'data') for o in sorted((ROOT/d).glob('*.ipynb'))]
USED = [o for o in ALL if o.path.parent.name != 'nbs']
LIBRARY = [o for o in ALL if any(re.search(r'^#\s*\|\s*default_exp', c) for c in o.code)]

def statements(cell): # a code cell's text; lines for IPython or the shell are left out
    return ast.parse(re.sub(r'^\s*[%!].*', '', cell, flags=re.M)).body

MODULES = sorted(o for o in (ROOT/'fastseg').glob('*.py') if not o.name.startswith('_'))

@pytest.mark.parametrize('path', MODULES, ids=lambda o: o.stem)
def test_lines_can_be_stepped_through(path):
    "At most 120 characters a line and 700 a body, one statement a line, no nested ternary, no branching lambda."
    found = [f'line {line}: {what}' for line, what in faults(path.read_text(encoding='utf-8'))]
    assert not found, '\n'.join(found)

@pytest.mark.parametrize('path', [o for o in MODULES if o.stem != 'question'], ids=lambda o: o.stem)
def test_no_module_asks_which_question_it_is(path):
    "What differs between voxels, numbers and classes stands in `QUESTIONS` or in a table beside its module, not in an if"
    kinds = [o for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(node, ast.Compare)
        for o in ast.walk(node) if isinstance(o, ast.Constant) and o.value in ('voxels', 'number', 'class')]
    assert not kinds, f'line {kinds[0].lineno}'

def test_every_fault_is_seen():
    "The test above can fail: one example of everything that it counts."
    text = "x = 1 if 2 else 3 if 4 else 5\nf = lambda a: 1 if a else 2\na = 1; b = 2\ny = '" + 'x'*120 + "'\n"
    text += 'def heavy():\n' + '    call_something(1, 2, 3)\n'*40
    assert len(list(faults(text))) == 5

each = lambda nbs: pytest.mark.parametrize('nb', nbs, ids=str)

@each(ALL)
def test_cells_are_short(nb):
    sizes = [len(o) for o in nb.lines if o]
    assert max(sizes, default=0) <= 25, f'a cell of {max(sizes)} lines'
    assert median(sizes or [0]) <= 6, f'half of the cells have {median(sizes)} lines or more'

@each(ALL)
def test_opens_with_title_and_subtitle(nb):
    lines = nb.prose.splitlines()
    assert lines[0].startswith('# ') and next(o for o in lines[1:] if o).startswith('> '), 'a `# Title`, then a `> subtitle`'

@each(ALL)
def test_saved_outputs_have_no_error(nb):
    assert not [o['evalue'] for c in nb.cells for o in c.get('outputs', []) if o['output_type'] == 'error']

def shows(cell): # does a cell end in a value or a figure, and without a semicolon?
    last = statements(cell)[-1:]
    if not last or not isinstance(last[0], ast.Expr) or cell.rstrip().endswith(';'): return False
    value = last[0].value
    is_figure = isinstance(value, ast.Call) and getattr(value.func, 'id', '').startswith('show_')
    return is_figure or isinstance(value, (ast.JoinedStr, ast.Name, ast.Tuple))

@each(ALL)
def test_what_is_shown_is_kept(nb):
    "Who opens a notebook without running it sees what it leads to; a cell that was edited loses its output."
    cells = [c for c in nb.cells if c['cell_type'] == 'code']
    lost = [c['id'] for c in cells if shows(''.join(c['source'])) and not c['outputs']]
    assert not lost, f'cells without their outputs: {", ".join(lost)}'

@each(USED)
def test_no_widget_takes_a_scan_along(nb):
    "Jupyter keeps what every widget of a session held, also one that was never shown: its pictures may not be published."
    assert 'widgets' not in nb.metadata

@each(ALL)
def test_cells_have_names_of_their_own(nb):
    "Two cells of one name are taken for one by whoever merges notebooks, or looks for the cell of a function."
    ids = [c['id'] for c in nb.cells]
    assert len(set(ids)) == len(ids), [o for o in ids if ids.count(o) > 1]

@each(ALL)
def test_size(nb):
    limit = 300_000 if nb in USED else 400_000
    assert nb.path.stat().st_size <= limit, f'{nb.path.stat().st_size:,} bytes: lower the dpi of its pictures'

@each(ALL)
def test_says_why(nb): assert len(nb.prose.split()) >= 150, 'hardly any prose: say why before how'

@each(LIBRARY)
def test_what_is_exported_is_tested_in_sight(nb):
    exports = sum(bool(re.search(r'^#\s*\|\s*export', c, re.M)) for c in nb.code)
    tests = sum(l.strip().startswith(('assert ', 'test_')) for c in nb.lines for l in c)
    assert tests >= exports, f'{tests} visible tests for {exports} export cells'

@each(LIBRARY)
def test_imports_stand_alone(nb):
    "nbdev_docs runs the cells that export or import, and no others: what stands beside an import would miss the rest."
    shown = [c for c in nb.code if not re.search(r'^#\s*\|\s*export', c, re.M)]
    mixed = [c for c in shown if len({isinstance(o, (ast.Import, ast.ImportFrom)) for o in statements(c)}) > 1]
    assert not mixed, 'move the import to the cell of imports:\n' + mixed[0]

@each(USED)
def test_defines_nothing(nb):
    "Code that is needed twice belongs to nbs/, from where it is exported."
    inner = [o for c in nb.code for top in statements(c) for o in ast.walk(top)]
    assert not [o.name for o in inner if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]

@each([o for o in USED if o.path.parent.name == 'baselines'])
def test_baselines_have_the_same_headings(nb): assert re.findall(r'^## (.*\S)', nb.prose, re.M) == HEADINGS
