"Folds are nnU-Net's; a download is whole and where it belongs, or it is not there."
import errno, hashlib, http.server, json, shutil, sys, tarfile, threading, warnings
import numpy as np, pytest
from conftest import is_one_line
from fastseg.dataset import archive_address, case_table, download, kfold, split
from fastseg.settings import FastsegError, quiet
from fastseg.task import TASKS, Task

# folds

def nnunet_fold(names, fold, n=5):
    "nnU-Net's split written out: the sorted names, shuffled once with numpy's generator at 12345, cut into n parts."
    names, order = sorted(names), np.arange(len(names))
    np.random.RandomState(12345).shuffle(order)
    valid = np.array_split(order, n)[fold]
    return [o for i, o in enumerate(names) if i not in valid], [o for i, o in enumerate(names) if i in valid]

@pytest.mark.parametrize('n', [5, 16, 20, 208, 260])
def test_folds_are_nnunets(n):
    names = [f'case_{i}' for i in range(n)]
    for fold in range(5): assert kfold(names[::-1], fold) == nnunet_fold(names, fold)

def test_few_cases():
    assert [kfold('cab', i)[1] for i in range(3)] == [nnunet_fold('abc', i, 3)[1] for i in range(3)]
    with pytest.raises(FastsegError, match='0 to 2'): kfold('abc', 3)
    with pytest.warns(UserWarning, match='says nothing about new scans'): assert kfold('a') == (['a'], ['a'])

def test_real_folders(real_data):
    for folder in sorted(o.parent for o in real_data.glob('Task*/dataset.json')):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            df = case_table(folder)
            assert df.case[df.fold == 0].tolist() == split(folder, 0)[1]
        assert df.case.tolist() == [o.name for o in Task.from_folder(folder).train]

def test_no_cases_here():
    with pytest.raises(FastsegError, match='fastseg download 3'): split(TASKS['03'])

# download

class Server(http.server.ThreadingHTTPServer):
    "Serves `body` at any address; `cut` bytes a connection, `ranges` says whether it resumes. `log` has what was asked and sent."
    def __init__(self, body): super().__init__(('127.0.0.1', 0), Handler); self.body, self.cut, self.ranges, self.status, self.log = body, None, True, 200, []
    @property
    def url(self): return f'http://127.0.0.1:{self.server_port}/Task04_Hippocampus.tar'

class Handler(http.server.BaseHTTPRequestHandler):
    log_message = lambda *_: None
    def do_GET(self):
        s, asked = self.server, self.headers.get('Range')
        start = int(asked[6:-1]) if asked and s.ranges else 0
        status = s.status if s.status != 200 else 416 if start and start >= len(s.body) else 206 if start else 200
        body = s.body[start:] if status < 300 else b''
        self.send_response(status)
        if status == 206: self.send_header('Content-Range', f'bytes {start}-{len(s.body)-1}/{len(s.body)}')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[:s.cut])
        s.log.append((asked, len(body[:s.cut])))
        self.close_connection = True

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A task folder of two random cases, with the `._` files that real archives have."
    import nibabel as nib
    folder, rng = tmp_path_factory.mktemp('tiny')/'Task04_Hippocampus', np.random.default_rng(0)
    for o in 'imagesTr', 'labelsTr': (folder/o).mkdir(parents=True)
    for i in range(2):
        nib.save(nib.Nifti1Image(rng.normal(size=(20, 20, 20)).astype('float32'), np.eye(4)), folder/f'imagesTr/a_{i}.nii.gz')
        nib.save(nib.Nifti1Image(rng.integers(0, 2, (20, 20, 20), 'uint8'), np.eye(4)), folder/f'labelsTr/a_{i}.nii.gz')
        (folder/f'imagesTr/._a_{i}.nii.gz').write_bytes(b'\0'*100)
    rows = [dict(image=f'./imagesTr/a_{i}.nii.gz', label=f'./labelsTr/a_{i}.nii.gz') for i in range(2)]
    (folder/'dataset.json').write_text(json.dumps(dict(modality={'0': 'MRI'}, labels={'0': 'background', '1': 'x'}, training=rows, test=[])))
    return folder

def tar_of(path, *adds):
    with tarfile.open(path, 'w') as tar:
        for o in adds: o(tar)
    return path.read_bytes()

@pytest.fixture
def server(tiny, tmp_path):
    s = Server(tar_of(tmp_path/'source.tar', lambda tar: tar.add(tiny, tiny.name)))
    threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
    yield s
    s.shutdown(); s.server_close()

@pytest.fixture
def get(server, tmp_path):
    "Download from the server into an empty folder, `get.root`."
    def get(md5=None): return download('Hippocampus', get.root, url=server.url, md5=md5 or hashlib.md5(server.body).hexdigest())
    get.root = tmp_path/'root'; get.root.mkdir()
    get.part = get.root/'Task04_Hippocampus.tar.part'
    get.names = lambda: sorted(o.name for o in get.root.iterdir())
    return get

def refused(get, match, **kw):
    "The download fails in one line and leaves no task folder."
    with pytest.raises(FastsegError, match=match) as e: get(**kw)
    assert is_one_line(e.value) and not (get.root/'Task04_Hippocampus').exists() and not list(get.root.glob('*.unpacking'))

def test_download(get, server):
    folder = get()
    assert folder == get.root/'Task04_Hippocampus' and len(Task.from_folder(folder).train) == 2
    assert get.names() == ['Task04_Hippocampus'] and not list(folder.rglob('._*'))
    n = len(server.log)
    assert get() == folder and len(server.log) == n, 'what is there is not fetched again'

def test_shows_a_bar_in_a_terminal(server, tmp_path, capsys, monkeypatch):
    md5 = hashlib.md5(server.body).hexdigest()
    download('Hippocampus', tmp_path/'log', url=server.url, md5=md5)
    assert capsys.readouterr() == ('', ''), 'a log file is no place for a bar'
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    download('Hippocampus', tmp_path/'bar', url=server.url, md5=md5)
    assert '100%' in capsys.readouterr().err
    with quiet(): download('Hippocampus', tmp_path/'quiet', url=server.url, md5=md5)
    assert capsys.readouterr() == ('', '')

def test_cut_connections_are_resumed(get, server):
    server.cut = len(server.body)//3 + 1
    get()
    assert [o[0] for o in server.log] == [None, f'bytes={server.cut}-', f'bytes={2*server.cut}-']
    assert sum(o[1] for o in server.log) == len(server.body), 'no byte is sent twice'

def test_a_killed_download_is_resumed(get, server):
    get.part.write_bytes(server.body[:5000])
    get()
    assert server.log == [('bytes=5000-', len(server.body) - 5000)]

def test_a_finished_part_is_used(get, server):
    get.part.write_bytes(server.body)
    get()
    assert server.log == [(f'bytes={len(server.body)}-', 0)]

def test_a_server_that_cannot_resume_starts_over(get, server):
    server.ranges = False
    get.part.write_bytes(server.body[:5000])
    get()

def test_a_server_that_cuts_and_cannot_resume_is_given_up(get, server):
    server.ranges, server.cut = False, 5000
    refused(get, 'it goes on at')
    assert len(server.log) == 2

@pytest.mark.parametrize('n', [5000, 10**6])
def test_a_part_of_something_else_is_dropped(get, server, n):
    get.part.write_bytes(b'x'*n)
    get()

def test_an_archive_that_lies_there_is_used(get, server):
    (get.root/'Task04_Hippocampus.tar').write_bytes(server.body)
    get()
    assert not server.log

def test_wrong_checksum(get):
    refused(get, 'md5 sum', md5='0'*32)
    assert get.names() == ['Task04_Hippocampus.tar.bad']
    get() # and the next try is not hindered by it

def test_no_network(get, server):
    server.shutdown(); server.server_close()
    refused(get, 'no way to http://127.0.0.1.*without a network make phantoms')
    assert get.names() == []

@pytest.mark.parametrize('status', [403, 404, 500])
def test_server_says_no(get, server, status):
    server.status = status
    refused(get, 'no way to')

def member(name, **kw):
    info = tarfile.TarInfo(name)
    for k, v in kw.items(): setattr(info, k, v)
    return lambda tar: tar.addfile(info)

@pytest.mark.parametrize('evil', [member('../escaped'), member('Task04_Hippocampus/../../escaped'), member('/tmp/fastseg_escaped'),
    member('Task04_Hippocampus/link', type=tarfile.SYMTYPE, linkname='/etc'), member('Task04_Hippocampus/link', type=tarfile.LNKTYPE, linkname='../../x'),
    member('Task04_Hippocampus/pipe', type=tarfile.FIFOTYPE)], ids=['dots', 'dots inside', 'absolute', 'symlink', 'hard link', 'device'])
def test_nothing_leaves_the_folder(get, server, tiny, tmp_path, evil):
    server.body = tar_of(tmp_path/'evil.tar', lambda tar: tar.add(tiny, tiny.name), evil)
    refused(get, 'do not use this archive')
    assert not list(tmp_path.rglob('escaped')) and not list(tmp_path.rglob('link'))

@pytest.mark.parametrize('body', [b'not a tar', b''])
def test_not_an_archive(get, server, body):
    server.body = body
    refused(get, 'not possible to unpack')

def test_half_an_archive(get, server):
    server.body = server.body[:len(server.body)//2]
    refused(get, 'not possible to unpack')

def test_an_archive_of_something_else(get, server, tiny, tmp_path):
    server.body = tar_of(tmp_path/'other.tar', lambda tar: tar.add(tiny/'imagesTr', 'Task04_Hippocampus/imagesTr'))
    refused(get, 'folders with a dataset.json')

def test_full_disk_while_unpacking(get, monkeypatch):
    def full(self, o, *args, **kw): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(tarfile.TarFile, 'extract', full)
    refused(get, 'No space left')

def test_no_room_for_it(get, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10, 10, 0))
    refused(get, '0.0 kB free')

def test_full_disk_while_fetching(get, monkeypatch):
    from tqdm import tqdm
    def full(self, n): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(tqdm, 'update', full)
    refused(get, 'No space left.*what has come is kept')

def test_no_right_to_write(server, tmp_path):
    (tmp_path/'file').write_text('in the way')
    with pytest.raises(FastsegError, match='not possible to write'): download('Hippocampus', tmp_path/'file', url=server.url, md5='0'*32)

def test_a_half_folder_is_not_taken_for_whole(get):
    (get.root/'Task04_Hippocampus').mkdir()
    with pytest.raises(FastsegError, match='without dataset.json'): get()

def test_addresses_of_all_ten():
    for o in TASKS.values():
        url, md5 = archive_address(o)
        assert url.startswith('https://') and url.endswith(f'{o.folder_name}.tar') and len(md5) == 32
