import gc
import http.server
import math
import os
import signal
import sys
import threading
from functools import cache

import numpy as np
import pytest
import torch
from helpers import (
    DATA,
    DEMOS,
    ITERS,
    LAYOUTS,
    ROOT,
    SMALL_ARCH,
    TOOLS,
    call_tool,
    golden_weight,
    official_shapes,
)
from mmengine.config import Config, config
from mmengine.config.utils import load
from mmengine.registry import MODELS, init_default_scope
from yapf.yapflib import yapf_api

import mmhatnet
from mmhatnet.datasets import make_demo_data
from mmhatnet.utils.device import find_device


def pytest_addoption(parser):
    parser.addoption('--device', help='default: a GPU if there is one')


def pytest_configure():
    # A shell makes its background jobs ignore Ctrl-C, and their children
    # inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    # At the end, a long test would leave the other processes without work.
    # Each process gets the next part of the tests, so that each part starts
    # with some of the long ones.
    parts = getattr(config, 'workerinput', {}).get('workercount', 1)
    long = [item for item in items if item.get_closest_marker('long')]
    others = [item for item in items if item not in long]
    size = math.ceil(len(items) / parts)
    items.clear()
    for part in (long[k::parts] for k in range(parts)):
        rest = max(size - len(part), 0)
        items += part + others[:rest]
        others = others[rest:]


@pytest.fixture(scope='session')
def device(request):
    """The device of --device; else a GPU if there is one, or the CPU."""
    usual = 'cuda' if torch.cuda.is_available() else 'cpu'
    return find_device(request.config.getoption('device') or usual)


@pytest.fixture(scope='session')
def official():
    """Function that makes a state dict in the authors' layout."""
    made = {}

    def make(arch):
        if arch not in made:
            made[arch] = {
                key: golden_weight(key, shape)
                for key, shape in official_shapes(arch).items()
            }
        return dict(made[arch])

    return make


@pytest.fixture(scope='session')
def official_file(official, tmp_path_factory):
    """Function that writes an official checkpoint."""
    folder = tmp_path_factory.mktemp('official')

    @cache
    def write(layout='model', arch='tiny', drop=(), **replace):
        weights = {**official(arch), **replace}
        for key in drop:
            del weights[key]
        path = folder / f'{layout}-{len(list(folder.iterdir()))}.pth'
        torch.save(LAYOUTS[layout](weights), path)
        return str(path)

    return write


@pytest.fixture
def build_classifier():
    """Function that builds HAT-Net-Tiny as a classifier of mmpretrain."""

    def build(**head):
        cfg = Config.fromfile(
            ROOT / 'configs' / 'hatnet' / 'hatnet-tiny_8xb128_in1k.py'
        )
        cfg.model.head.update(head)
        init_default_scope('mmpretrain')
        return MODELS.build(cfg.model).eval()

    return build


@pytest.fixture
def server(official_file, tmp_path, monkeypatch):
    """A mirror of the authors' release on loopback, and an empty hub cache.

    Only HAT-Net-Tiny is there.
    """
    release = tmp_path / 'release'
    release.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(release))

        def log_message(self, *args):
            requests.append(self.path)

        def do_GET(self):  # noqa: N802
            if it.answer is None:
                return super().do_GET()
            headers, body = it.answer
            self.send_response(200)
            for header in headers.items():
                self.send_header(*header)
            self.end_headers()
            return self.wfile.write(body)

        def copyfile(self, source, target):
            if it.cut or it.stall:
                target.write(source.read(1_000_000))
                target.flush()
            if it.stall:
                it.stall.wait(60)
            elif not it.cut:
                super().copyfile(source, target)

    os.link(official_file(), release / 'HAT-Net_Tiny.pth')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as it:
        # By default, shutdown() takes half a second.
        thread = threading.Thread(target=it.serve_forever, args=(0.01,))
        thread.start()
        it.release = release
        it.requests = requests
        it.cut = it.stall = None  # faults of the server
        it.answer = None  # headers and a body in the place of any file
        it.url = f'http://127.0.0.1:{it.server_port}'
        it.hub = tmp_path / 'hub'
        monkeypatch.setenv('MMHATNET_RELEASE_URL', it.url)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(it.hub))
        yield it
        it.shutdown()
        thread.join()


@pytest.fixture(scope='session')
def golden():
    """Function that reads the outputs of the authors' code."""

    def read(arch):
        return np.load(DATA / 'golden' / f'hatnet_{arch}_224x224.npz')

    return read


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """Function that writes a checkpoint of a demo model, not trained."""
    folder = tmp_path_factory.mktemp('trained')

    @cache
    def write(name, with_meta=True):
        torch.manual_seed(0)
        model = mmhatnet.get_model(name)
        # RetinaNet starts with a bias that finds nothing.
        head = getattr(getattr(model, 'bbox_head', None), 'retina_cls', None)
        if head is not None:
            torch.nn.init.zeros_(head.bias)
        content = dict(state_dict=model.state_dict())
        if with_meta:
            # Checkpoints of mmseg have these entries.
            meta = dict(label_map=None, reduce_zero_label=True)
            meta.update(model.dataset_meta)
            content['meta'] = dict(dataset_meta=meta)
        path = folder / f'{name}-{with_meta}.pth'
        torch.save(content, path)
        return str(path)

    return write


@pytest.fixture(scope='session')
def demo_folder(tmp_path_factory):
    """A folder with small scenes in data/demo, like the root of a clone."""
    pytest.importorskip('skimage', reason='the demo data need scikit-image')
    folder = tmp_path_factory.mktemp('demo')
    make_demo_data(folder / 'data' / 'demo', 8, 2, size=(64, 64))
    return folder


@pytest.fixture(scope='session')
def small_config(demo_folder):
    """The demo of Semantic FPN, smaller, and without randomness."""
    path = demo_folder / 'small.py'
    path.write_text(f"""
_base_ = 'mmhatnet::demo/{DEMOS['Semantic Segmentation']}.py'
custom_imports = dict(imports=['record_hook'])
custom_hooks = [dict(type='RecordHook')]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(_delete_=True, **{SMALL_ARCH})),
    neck=dict(in_channels={list(SMALL_ARCH['embed_dims'])}, out_channels=16),
    decode_head=dict(
        in_channels=[16] * 4,
        channels=16,
        dropout_ratio=0.0,
        norm_cfg=dict(_delete_=True, type='GN', num_groups=4),
    ),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
# Muon makes large updates of small gradients, where sums of processes round
# in another way.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=4e-4, weight_decay=0.05)
)
param_scheduler = [dict(type='PolyLR', end={ITERS}, by_epoch=False)]
train_cfg = dict(max_iters={ITERS}, val_interval={ITERS})
default_hooks = dict(checkpoint=dict(interval=2))
randomness = dict(seed=1)
""")
    return path


@pytest.fixture(scope='session')
def single_run(demo_folder, small_config):
    """A training in one process: its work_dir, with the records in it."""
    call_tool(
        *(TOOLS / 'train.py', small_config, '--work-dir', 'single'),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
        cwd=demo_folder,
        RECORD='single',
    )
    return demo_folder / 'single'


@pytest.fixture(scope='session', autouse=True)
def _remember():
    """Save the time that mmengine takes for what it computed before.

    It reads the metafiles for each config that a config inherits from, and
    formats the config of a training for each checkpoint, in a second.
    """
    formatted = {}

    def format_once(text, **options):
        if text not in formatted:
            formatted[text] = format_code(text, **options)
        return formatted[text]

    format_code = yapf_api.FormatCode
    with pytest.MonkeyPatch.context() as patch:
        # Older versions of mmengine import it into their module.
        patch.setattr(config, 'FormatCode', format_once, raising=False)
        patch.setattr(yapf_api, 'FormatCode', format_once)
        patch.setattr('mmengine.config.utils.load', cache(load))
        yield


@pytest.fixture(scope='module', autouse=True)
def _freeze():
    """Collecting garbage among all objects of the libraries is slow.

    The data sets of mmengine do it each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget_graphs():
    """torch.compile makes a graph of any size after it met two sizes."""
    yield
    if 'torch._dynamo' in sys.modules:
        torch.compiler.reset()
