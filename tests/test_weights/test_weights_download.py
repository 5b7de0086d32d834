import gzip
import os
import signal
import threading
import time
from functools import partial

import pytest
import torch
from helpers import error_of_last_stage, pretrained, start_tool
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from mmhatnet.utils.hashes import sha256_of
from mmhatnet.weights import download, files
from mmhatnet.weights.files import read_checkpoint
from mmhatnet.weights.releases import RELEASE_URL

FILE = 'HAT-Net_Tiny.pth'
RECORD = FILE + '.sha256'
TWO_PROCESSES = """
import os, torch
from mmhatnet.models import HATNet

def load(arch):
    cfg = dict(type='Pretrained', checkpoint=f'hatnet://{arch}')
    HATNet(arch, init_cfg=cfg).init_weights()

torch.distributed.init_process_group(
    'gloo',
    init_method=os.environ['STORE'],
    rank=int(os.environ['RANK']),
    world_size=int(os.environ['WORLD_SIZE']),
)
load('tiny')
print('loaded')
load('small')
"""
INTERRUPTED = """
from mmhatnet.weights.files import read_checkpoint
read_checkpoint('hatnet://tiny')
"""


@pytest.fixture
def cache(server):
    return server.hub / 'checkpoints'


@pytest.mark.slow
def test_two_processes(server, tmp_path):
    """One downloads, and neither waits forever; Small is absent."""
    processes = [
        start_tool(
            '-c',
            TWO_PROCESSES,
            TORCH_HOME=str(server.hub),
            RANK=str(rank),
            WORLD_SIZE='2',
            STORE=(tmp_path / 'store').as_uri(),
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert 'loaded' in output
        assert 'could not download' in output
    assert server.requests.count(f'/{FILE}') == 1


def test_hash_is_recorded_and_verified(server, cache):
    read_checkpoint('hatnet://tiny')
    path = cache / FILE
    assert (cache / RECORD).read_text() == (
        f'# {RELEASE_URL}/{FILE}\n{sha256_of(path)}  {FILE}\n'
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for location in ('hatnet://tiny', f'{RELEASE_URL}/{FILE}'):
        with pytest.raises(ValueError, match='has changed since.*Delete'):
            CheckpointLoader.load_checkpoint(location)
    path.unlink()
    read_checkpoint('hatnet://tiny')  # downloads the first file again


def test_changed_release_is_refused(server, cache, official_file):
    read_checkpoint('hatnet://tiny')
    (cache / FILE).unlink()
    (server.release / FILE).unlink()
    os.link(official_file('bare'), server.release / FILE)
    with pytest.raises(ValueError, match='is not the requested file'):
        read_checkpoint('hatnet://tiny')
    assert os.listdir(cache) == [RECORD]
    (cache / RECORD).write_text('')
    with pytest.raises(ValueError, match='sha256 is damaged: delete it'):
        read_checkpoint('hatnet://tiny')


def test_file_that_the_user_put_into_the_cache(
    server, cache, official_file, golden
):
    cache.mkdir(parents=True)
    os.link(official_file('bare'), cache / FILE)
    assert error_of_last_stage(pretrained('hatnet://tiny'), golden) < 5e-5
    assert not server.requests
    assert len(os.listdir(cache)) == 2


@pytest.mark.parametrize('name', ['hatnet://tiny', 'url', 'file', 'path'])
def test_pinned_hash(name, server, cache, official_file, golden):
    path = official_file()
    location = {
        'url': f'{server.url}/{FILE}',
        'file': f'file://{path}',
        'path': path,
    }.get(name, name)
    with pytest.raises(ValueError, match='SHA-256|SHA256|sha256'):
        pretrained(f'{location}#sha256={"0" * 64}')
    # A refused file is not kept.
    assert not cache.exists() or not os.listdir(cache)
    model = pretrained(f'{location}#sha256={sha256_of(path).upper()}')
    assert error_of_last_stage(model, golden) < 5e-5
    with pytest.raises(ValueError, match='is not the requested file'):
        read_checkpoint(f'{location}#sha256={"0" * 64}')
    with pytest.raises(ValueError, match="64 hexadecimal.*'abc'"):
        read_checkpoint(f'{location}#sha256=abc')


def test_same_name_at_another_url(server):
    read_checkpoint(f'{server.url}/{FILE}')
    with pytest.raises(ValueError, match=f'is from {server.url}'):
        read_checkpoint('hatnet://tiny')


def test_password_is_not_recorded(server, cache):
    url = server.url.replace('http://', 'HTTP://user:secret@')
    read_checkpoint(f'{url}/{FILE}')
    assert 'secret' not in (cache / RECORD).read_text()
    assert f'# {server.url}/{FILE}\n' in (cache / RECORD).read_text()
    read_checkpoint(f'{server.url}/{FILE}')  # the same file
    with pytest.raises(OSError, match='could not download') as error:
        read_checkpoint(f'{url}/nothing.pth')
    assert 'secret' not in str(error.value)


@pytest.mark.parametrize(
    'save',
    [
        torch.save,
        partial(torch.save, _use_new_zipfile_serialization=False),
        save_file,
    ],
)
@pytest.mark.parametrize('part', [0.05, 0.999])
def test_lost_connection_without_length(save, part, server, cache, tmp_path):
    """The client cannot tell it from the end of the file."""
    save(dict(a=torch.ones(5000), b=torch.ones(5000)), tmp_path / 'whole')
    whole = (tmp_path / 'whole').read_bytes()
    server.answer = {}, whole[: int(part * len(whole))]
    with pytest.raises(ValueError, match='is not a complete checkpoint'):
        read_checkpoint(f'{server.url}/model.bin')
    assert not os.listdir(cache)
    server.answer = {}, whole
    assert read_checkpoint(f'{server.url}/model.bin').keys() == {'a', 'b'}


def compress(server, patch):
    server.answer = {'Content-Encoding': 'gzip'}, gzip.compress(bytes(1000))


def cut(server, patch):
    server.cut = True


def lower_limit(server, patch):
    patch.setattr(download, 'MAX_BYTES', 100_000)


def send_page(server, patch):
    server.answer = {}, b'<!DOCTYPE html><html></html>'


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        (compress, 'sends it in the encoding gzip'),
        (cut, 'could not download'),
        (lower_limit, 'has more than'),
        (send_page, 'is not a complete checkpoint.*DOCTYPE'),
    ],
)
def test_nothing_is_kept(fault, message, server, cache, monkeypatch):
    fault(server, monkeypatch)
    with pytest.raises((OSError, ValueError), match=message):
        read_checkpoint('hatnet://tiny')
    assert not os.listdir(cache)


@pytest.mark.parametrize('end', ['', '/', '/..', '/a/.', '/..?a'])
def test_url_without_a_file(end, server):
    with pytest.raises(ValueError, match='names no file'):
        read_checkpoint(server.url + end)
    with pytest.raises(ValueError, match="no reader for 'HTTPX://'"):
        read_checkpoint(f'HTTPX://host{end}')
    assert not server.requests


def test_empty_mirror_is_no_mirror(monkeypatch):
    monkeypatch.setenv('MMHATNET_RELEASE_URL', '')
    asked = []
    monkeypatch.setattr(
        files, 'download_file', lambda *args: asked.append(args)
    )
    files.locate_checkpoint(f'{RELEASE_URL}/{FILE}')
    assert asked == [(f'{RELEASE_URL}/{FILE}', None, f'{RELEASE_URL}/{FILE}')]


def test_ctrl_c_leaves_no_file(server):
    server.stall = threading.Event()
    process = start_tool('-c', INTERRUPTED, TORCH_HOME=str(server.hub))
    folder = server.hub / 'hub' / 'checkpoints'
    for _ in range(600):
        if any(file.stat().st_size for file in folder.glob('*')):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert 'KeyboardInterrupt' in output
    server.stall.set()
    assert not list(folder.iterdir())
