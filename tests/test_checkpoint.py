import argparse
import functools
import http.server
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CLS_GRIDS, ROOT, SMALL_ARCH, golden_image
from mmengine import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import (
    CheckpointLoader,
    load_checkpoint,
    load_state_dict,
)
from PIL import Image

from mmhatnet.models import HATNet
from mmhatnet.releases import RELEASE_URL, convert_classifier
from mmhatnet.weights.download import sha256_of
from mmhatnet.weights.files import read_checkpoint, unwrap_state_dict
from mmhatnet.weights.loading import to_backbone
from mmhatnet.weights.official import from_official

LAYOUTS = {
    'bare': lambda weights: weights,
    'model': lambda weights: {
        'model': weights,
        'epoch': 300,
        'args': argparse.Namespace(lr=1e-3),
    },
    'state_dict': lambda weights: {'state_dict': weights},
    'module': lambda weights: {
        'module.' + key: value for key, value in weights.items()
    },
    'model, module': lambda weights: {
        'model': {'module.' + key: value for key, value in weights.items()}
    },
}


LOAD_IN_A_PROCESS = """
import os, sys, torch
from mmhatnet.models import HATNet
torch.distributed.init_process_group(
    'gloo',
    init_method=os.environ['STORE'],
    rank=int(os.environ['RANK']),
    world_size=int(os.environ['WORLD_SIZE']),
)
checkpoint = 'hatnet://' + sys.argv[1]
cfg = dict(type='Pretrained', checkpoint=checkpoint)
HATNet(sys.argv[1], init_cfg=cfg).init_weights()
"""


@pytest.fixture(scope='session')
def official_file(official, tmp_path_factory):
    """Function that writes an official checkpoint."""
    folder = tmp_path_factory.mktemp('official')

    @functools.cache
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
    def build(**head):
        cfg = Config.fromfile(
            ROOT / 'configs' / 'hatnet' / 'hatnet-tiny_8xb128_in1k.py'
        )
        cfg.model.head.update(head)
        init_default_scope('mmpretrain')
        return MODELS.build(cfg.model).eval()

    return build


def pretrained(checkpoint, **kwargs):
    model = HATNet(
        'tiny',
        **CLS_GRIDS,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        **kwargs,
    ).eval()
    model.init_weights()
    return model


def error_of_last_stage(model, golden):
    """Of the features, relative to the golden ones' standard deviation."""
    with torch.no_grad():
        feature = model(golden_image())[-1].numpy()
    expected = golden('tiny')['stage3_sample']
    difference = np.abs(feature[:, ::8] - expected).max()
    return difference / expected.std()


def error_of_logits(classifier, golden):
    with torch.no_grad():
        logits = classifier(golden_image()).numpy()
    expected = golden('tiny')['logits']
    return np.abs(logits - expected).max() / expected.std()


def cached(server):
    return sorted(os.listdir(server.hub / 'checkpoints'))


def tamper(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class TestBackbone:
    @pytest.mark.parametrize('layout', LAYOUTS)
    def test_pretrained_official_file(self, layout, official_file, golden):
        model = pretrained(official_file(layout))
        assert error_of_last_stage(model, golden) < 5e-5

    def test_as_part_of_a_larger_model(self, official_file, golden):
        init_default_scope('mmpretrain')
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(
                    type='mmhatnet.HATNet',
                    arch='tiny',
                    out_indices=(3,),
                    **CLS_GRIDS,
                    init_cfg=dict(
                        type='Pretrained', checkpoint=official_file()
                    ),
                ),
                head=dict(
                    type='mmhatnet.HATNetClsHead',
                    num_classes=7,
                    in_channels=384,
                ),
            )
        )
        model.init_weights()
        assert error_of_last_stage(model.backbone.eval(), golden) < 5e-5

    @pytest.mark.parametrize('layout', LAYOUTS)
    def test_loaders_of_torch_and_mmengine(
        self, layout, official_file, golden
    ):
        by_torch = HATNet('tiny', **CLS_GRIDS).eval()
        by_torch.load_state_dict(read_checkpoint(official_file(layout)))
        assert error_of_last_stage(by_torch, golden) < 5e-5
        by_mmengine = HATNet('tiny', **CLS_GRIDS).eval()
        load_checkpoint(by_mmengine, official_file(layout))
        assert error_of_last_stage(by_mmengine, golden) < 5e-5

    @pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
    def test_checkpoint_of_mm(self, prefix, official, tmp_path, golden):
        """With what mmengine's checkpoints of a training hold besides."""
        content = dict(
            meta=dict(epoch=3, time='now', scalar=np.float64(0.5)),
            state_dict=from_official(official('tiny')),
            message_hub=dict(
                log_scalars={'loss': HistoryBuffer([1.0, 2.0], [1, 1])}
            ),
            optimizer=dict(state={}, param_groups=[dict(lr=np.float32(1))]),
        )
        torch.save(content, tmp_path / 'epoch_3.pth')
        model = HATNet(
            'tiny',
            **CLS_GRIDS,
            init_cfg=dict(
                type='Pretrained',
                checkpoint=str(tmp_path / 'epoch_3.pth'),
                prefix=prefix,
            ),
        ).eval()
        model.init_weights()
        assert error_of_last_stage(model, golden) < 5e-5

    def test_own_checkpoint(self, tmp_path):
        model = HATNet(SMALL_ARCH, out_norm_cfg=dict(type='BN'))
        torch.save(model.state_dict(), tmp_path / 'own.pth')
        other = HATNet(
            SMALL_ARCH,
            out_indices=(0, 1),
            init_cfg=dict(
                type='Pretrained', checkpoint=str(tmp_path / 'own.pth')
            ),
        )
        other.init_weights()
        for name, value in other.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])

    def test_fewer_stages_and_output_norms(self, official_file, golden):
        model = pretrained(
            official_file(), out_indices=(0, 2), out_norm_cfg=dict(type='BN')
        )
        model.out_norms = None
        with torch.no_grad():
            feature = model(golden_image())[1].numpy()
        expected = golden('tiny')['stage2_sample']
        difference = np.abs(feature[:, ::8, ::2, ::2] - expected).max()
        assert difference < 5e-5 * expected.std()

    @pytest.mark.parametrize(
        ('damage', 'message'),
        [
            (
                dict(drop=('blocks.2.3.attn.kv.weight',)),
                r'missing: stages\.2\.3\.attn\.kv\.weight',
            ),
            (
                dict(drop=('patch_embed.0.weight', 'patch_embed.0.bias')),
                r'missing: stem\.0\.weight, stem\.0\.bias',
            ),
            (
                {'blocks.0.0.attn.extra.weight': torch.zeros(1)},
                r'unexpected: stages\.0\.0\.attn\.extra\.weight',
            ),
            ({'fpn.weight': torch.zeros(1)}, r'unexpected: fpn\.weight'),
            (
                {'ds2.conv.weight': torch.zeros(96, 48, 1, 1)},
                r'downsamples\.0\.0\.weight \(96, 48, 1, 1\) instead of '
                r'\(96, 48, 3, 3\)',
            ),
        ],
    )
    def test_damaged_file(self, damage, message, official_file):
        path = official_file(**damage)
        with pytest.raises(ValueError, match=message) as error:
            pretrained(path)
        assert path in str(error.value)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(HATNet('tiny'), path)

    def test_other_arch(self, official_file):
        with pytest.raises(ValueError, match='wrong shape: stem.3.weight'):
            pretrained(official_file(arch='small'))

    @pytest.mark.parametrize('prefix', [None, 'encoder'])
    def test_nothing_matches(self, prefix, tmp_path):
        path = str(tmp_path / 'other.pth')
        torch.save({'layer1.0.conv1.weight': torch.zeros(1)}, path)
        model = HATNet('tiny')
        with pytest.raises(ValueError, match=r'other\.pth .*layer1\.0\.conv1'):
            to_backbone(read_checkpoint(path), model, path, prefix)
        with pytest.raises(ValueError, match='unexpected: layer1.0.conv1'):
            load_checkpoint(model, path)

    def test_a_prefix_is_not_ignored(self, tmp_path):
        path = str(tmp_path / 'own.pth')
        model = HATNet(SMALL_ARCH)
        torch.save(model.state_dict(), path)
        with pytest.raises(ValueError, match=r"no keys 'encoder\.\*'.*stem"):
            to_backbone(read_checkpoint(path), model, path, 'encoder')

    @pytest.mark.parametrize(
        ('key', 'message'),
        [
            ('backbone.layer1.conv.weight', 'unexpected: layer1.conv.weight'),
            ('backbone.stem.0.weight', r'wrong shape: stem\.0\.weight'),
        ],
    )
    def test_inside_a_larger_model(self, key, message):
        """Where mmengine would only log what does not fit."""
        model = torch.nn.ModuleDict({'backbone': HATNet(SMALL_ARCH)})
        with pytest.raises(ValueError, match=message):
            load_state_dict(model, {key: torch.zeros(1)})
        head_only = {'decode_head.weight': torch.zeros(1)}
        model.load_state_dict(head_only, strict=False)

    def test_nothing_is_loaded_from_a_damaged_file(self, official_file):
        model = HATNet('tiny')
        before = model.stem[0].weight.clone()
        with pytest.raises(ValueError, match='missing'):
            load_checkpoint(model, official_file(drop=('ds3.conv.bias',)))
        assert torch.equal(model.stem[0].weight, before)


class TestClassifier:
    @pytest.mark.parametrize('layout', LAYOUTS)
    def test_load_from(self, layout, official_file, build_classifier, golden):
        model = build_classifier()
        load_checkpoint(model, official_file(layout))
        assert error_of_logits(model, golden) < 5e-5

    def test_hatnet_is_in_the_layout_of_mm(
        self, official, build_classifier, golden
    ):
        model = build_classifier()
        model.load_state_dict(from_official(official('tiny')))
        assert error_of_logits(model, golden) < 5e-5

    @pytest.mark.parametrize(
        ('damage', 'message'),
        [
            (
                dict(drop=('classifier.1.bias',)),
                r'missing: head\.fc\.bias',
            ),
            (
                dict(drop=('ds4.norm.bias',)),
                r'missing: backbone\.downsamples\.2\.1\.bias',
            ),
            (
                {'classifier.2.bias': torch.zeros(1)},
                r'unexpected: classifier\.2\.bias',
            ),
            (
                {'ds4.norm.bias': torch.zeros(1)},
                r'wrong shape: backbone\.downsamples\.2\.1\.bias',
            ),
        ],
    )
    def test_damaged_file(
        self, damage, message, official_file, build_classifier
    ):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(build_classifier(), official_file(**damage))

    def test_other_number_of_classes(self, official_file, build_classifier):
        model = build_classifier(num_classes=10)
        with pytest.raises(ValueError, match=r'head\.fc\.weight is \(1000'):
            load_checkpoint(model, official_file())

    @pytest.mark.parametrize('prefix', ['', 'backbone.'])
    def test_other_network(self, prefix, build_classifier, tmp_path):
        path = str(tmp_path / 'other.pth')
        weights = {
            f'{prefix}layer1.0.conv1.weight': torch.zeros(1),
            'head.weight': torch.zeros(1),
        }
        torch.save(weights, path)
        with pytest.raises(ValueError, match='unexpected: layer1.0.conv1'):
            load_checkpoint(build_classifier(), path)


class TestByName:
    @pytest.fixture
    def server(self, official_file, tmp_path, monkeypatch):
        """The authors' release on loopback, and an empty hub cache."""
        release = tmp_path / 'release'
        release.mkdir()
        requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(release))

            def log_message(self, *args):
                requests.append(self.path)

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
            thread = threading.Thread(target=it.serve_forever)
            thread.start()
            it.release = release
            it.requests = requests
            it.cut = it.stall = None  # what goes wrong
            it.url = f'http://127.0.0.1:{it.server_port}'
            it.hub = tmp_path / 'hub'
            monkeypatch.setenv('MMHATNET_RELEASE_URL', it.url)
            monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(it.hub))
            yield it
            it.shutdown()
            thread.join()

    @pytest.mark.parametrize('name', ['hatnet://tiny', 'hatnet://t'])
    def test_backbone(self, name, server, golden):
        for _ in range(2):
            assert error_of_last_stage(pretrained(name), golden) < 5e-5
        assert len(server.requests) == 1  # then it is in the cache
        assert cached(server) == [
            'HAT-Net_Tiny.pth',
            'HAT-Net_Tiny.pth.sha256',
        ]

    def test_url(self, server, golden):
        model = pretrained(f'{server.url}/HAT-Net_Tiny.pth')
        assert error_of_last_stage(model, golden) < 5e-5

    def test_loaders_of_mmengine(self, server, build_classifier, golden):
        backbone = HATNet('tiny', **CLS_GRIDS).eval()
        load_checkpoint(backbone, 'hatnet://tiny')
        assert error_of_last_stage(backbone, golden) < 5e-5
        classifier = build_classifier()
        load_checkpoint(classifier, 'hatnet://tiny')
        assert error_of_logits(classifier, golden) < 5e-5

    @pytest.mark.parametrize('arch', ['tiny', 'small'])
    def test_two_processes(self, arch, server, tmp_path):
        """One downloads, and neither waits for ever; Small is not there."""
        processes = [
            subprocess.Popen(
                [sys.executable, '-c', LOAD_IN_A_PROCESS, arch],
                env={
                    **os.environ,
                    'TORCH_HOME': str(server.hub),
                    'RANK': str(rank),
                    'WORLD_SIZE': '2',
                    'STORE': (tmp_path / 'store').as_uri(),
                },
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=120)
            if arch == 'tiny':
                assert process.returncode == 0, errors
            else:
                assert 'could not download' in errors
        if arch == 'tiny':
            assert len(server.requests) == 1

    def test_hash_is_recorded_and_verified(self, server):
        read_checkpoint('hatnet://tiny')
        path = server.hub / 'checkpoints' / 'HAT-Net_Tiny.pth'
        record = path.with_name('HAT-Net_Tiny.pth.sha256').read_text()
        assert record == (
            f'# {RELEASE_URL}/HAT-Net_Tiny.pth\n'
            f'{sha256_of(path)}  HAT-Net_Tiny.pth\n'
        )
        tamper(path)
        for location in ('hatnet://tiny', f'{RELEASE_URL}/HAT-Net_Tiny.pth'):
            with pytest.raises(ValueError, match='has changed since.*Delete'):
                CheckpointLoader.load_checkpoint(location)
        path.unlink()
        read_checkpoint(
            'hatnet://tiny'
        )  # the file of the first download is back

    def test_a_release_that_changed_is_refused(self, server, official_file):
        read_checkpoint('hatnet://tiny')
        (server.hub / 'checkpoints' / 'HAT-Net_Tiny.pth').unlink()
        (server.release / 'HAT-Net_Tiny.pth').unlink()
        os.link(official_file('bare'), server.release / 'HAT-Net_Tiny.pth')
        with pytest.raises(ValueError, match='does not match the known hash'):
            read_checkpoint('hatnet://tiny')
        assert cached(server) == ['HAT-Net_Tiny.pth.sha256']

    def test_a_file_put_there_by_hand(self, server, official_file, golden):
        folder = server.hub / 'checkpoints'
        folder.mkdir(parents=True)
        os.link(official_file('bare'), folder / 'HAT-Net_Tiny.pth')
        assert error_of_last_stage(pretrained('hatnet://tiny'), golden) < 5e-5
        assert not server.requests
        assert len(cached(server)) == 2

    @pytest.mark.parametrize('name', ['hatnet://tiny', 'url', 'file', 'path'])
    def test_pinned_hash(self, name, server, official_file, golden):
        path = official_file()
        location = {
            'url': f'{server.url}/HAT-Net_Tiny.pth',
            'file': f'file://{path}',
            'path': path,
        }.get(name, name)
        with pytest.raises(ValueError, match='SHA-256|SHA256|sha256'):
            pretrained(f'{location}#sha256={"0" * 64}')
        # Nothing that was refused stays.
        assert not server.hub.exists() or not cached(server)
        model = pretrained(f'{location}#sha256={sha256_of(path).upper()}')
        assert error_of_last_stage(model, golden) < 5e-5
        with pytest.raises(ValueError, match='is not the file that was asked'):
            pretrained(f'{location}#sha256={"0" * 64}')
        with pytest.raises(ValueError, match="64 hexadecimal.*'abc'"):
            pretrained(f'{location}#sha256=abc')

    def test_same_name_at_another_url(self, server):
        read_checkpoint(f'{server.url}/HAT-Net_Tiny.pth')
        with pytest.raises(ValueError, match=f'is from {server.url}'):
            read_checkpoint('hatnet://tiny')

    def test_damaged_record(self, server):
        read_checkpoint('hatnet://tiny')
        record = server.hub / 'checkpoints' / 'HAT-Net_Tiny.pth.sha256'
        record.write_text('')
        with pytest.raises(ValueError, match='sha256 is damaged: delete it'):
            read_checkpoint('hatnet://tiny')

    def test_cut_off(self, server, official_file):
        """A server that goes away leaves nothing behind."""
        server.cut = 1_000_000
        with pytest.raises(OSError, match='could not download'):
            read_checkpoint('hatnet://tiny')
        assert not cached(server)

    def test_interrupted(self, server, tmp_path):
        """Ctrl-C leaves nothing behind, and then it works."""
        server.stall = threading.Event()
        process = subprocess.Popen(
            [
                *(sys.executable, '-c'),
                # What a shell starts in the background ignores Ctrl-C.
                'import signal\n'
                'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
                'from mmhatnet.weights.files import read_checkpoint\n'
                "read_checkpoint('hatnet://tiny')",
            ],
            env={**os.environ, 'TORCH_HOME': str(server.hub)},
            stderr=subprocess.PIPE,
            text=True,
        )
        folder = server.hub / 'hub' / 'checkpoints'
        for _ in range(600):
            if any(file.stat().st_size for file in folder.glob('*')):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert 'KeyboardInterrupt' in errors
        server.stall.set()
        assert not list(folder.iterdir())

    @pytest.mark.parametrize('value', [float('nan'), float('inf')])
    def test_values_that_are_not_finite(self, value, server, official_file):
        (server.release / 'HAT-Net_Tiny.pth').unlink()
        norm = torch.ones(48)
        norm[3] = value
        path = official_file(**{'blocks.0.1.attn.norm.weight': norm})
        os.link(path, server.release / 'HAT-Net_Tiny.pth')
        with pytest.raises(
            ValueError, match=r'stages\.0\.1\.attn\.norm\.weight has values'
        ):
            read_checkpoint('hatnet://tiny')

    def test_from_download_to_prediction(self, server, tmp_path):
        """By the tools: a name predicts; converted, it tests the same."""
        folder = tmp_path / 'imagenet' / 'val'
        for label in range(1000):
            (folder / f'{label:03}').mkdir(parents=True)
        for label in range(2):
            noise = np.random.RandomState(label).rand(60, 80, 3) * 255
            image = Image.fromarray(noise.astype(np.uint8))
            image.save(folder / f'{label:03}' / f'{label}.jpg')

        def run(tool, *arguments):
            result = subprocess.run(
                [sys.executable, ROOT / 'tools' / tool, *map(str, arguments)],
                capture_output=True,
                text=True,
                check=False,
                cwd=tmp_path,
                env={**os.environ, 'TORCH_HOME': str(server.hub)},
            )
            assert result.returncode == 0, result.stderr
            return result.stdout

        name = 'hatnet-tiny_8xb128_in1k'
        config = ROOT / 'configs' / 'hatnet' / f'{name}.py'
        run('infer.py', name, folder / '*/*', '--out-dir', 'by_name')
        assert len(server.requests) == 1
        file = server.hub / 'hub' / 'checkpoints' / 'HAT-Net_Tiny.pth'
        converted = run('model_converters/hatnet2mm.py', file, 'out').split()
        run(
            'infer.py',
            config,
            *converted,
            folder / '*/*',
            '--out-dir',
            'by_mm',
        )
        found = [
            json.loads((tmp_path / out / f'{image}.json').read_text())
            for out in ('by_name', 'by_mm')
            for image in (0, 1)
        ]
        assert found[:2] == found[2:]
        printed = run(
            *('test.py', config, *converted, '--cfg-options'),
            f'test_dataloader.dataset.data_root={tmp_path / "imagenet"}',
            'test_dataloader.batch_size=1',
            'test_dataloader.num_workers=0',
            'test_dataloader.persistent_workers=False',
        )
        right = [found[i]['classes'][0]['label'] == i for i in (0, 1)]
        top1 = re.search(r'accuracy/top1: ([\d.]+)', printed)[1]
        assert float(top1) == 50 * sum(right)
        assert len(server.requests) == 1

    def test_name_of_another_arch(self, server):
        classifier = torch.nn.ModuleDict({'backbone': HATNet('small')})
        with pytest.raises(ValueError, match='wrong shape: stem.3.weight'):
            load_checkpoint(classifier, 'hatnet://tiny')

    def test_unknown_name(self):
        with pytest.raises(ValueError, match='hatnet://tiny, hatnet://small'):
            pretrained('hatnet://huge')

    def test_absent_file(self, server):
        url = f'{server.url}/HAT-Net_Small.pth'
        with pytest.raises(OSError, match=f'could not download {url}.*put it'):
            pretrained('hatnet://small')
        assert not cached(server)

    def test_wrong_file(self, server):
        os.link(
            server.release / 'HAT-Net_Tiny.pth',
            server.release / 'HAT-Net_Small.pth',
        )
        with pytest.raises(ValueError, match=r'wrong shape.*Delete .*Small'):
            pretrained('hatnet://small')

    def test_no_checkpoint(self, server):
        (server.release / 'HAT-Net_Small.pth').write_text('<html></html>')
        with pytest.raises(ValueError, match='not a checkpoint.*Delete'):
            pretrained('hatnet://small')


class TestConversion:
    """By the tools, of files."""

    def run(self, tool, *arguments, fails=False):
        result = subprocess.run(
            [
                sys.executable,
                ROOT / 'tools' / 'model_converters' / f'{tool}.py',
                *map(str, arguments),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode != 0) == fails, result.stderr
        if fails:
            return result.stderr.splitlines()[-1]
        path = Path(result.stdout.splitlines()[-1])
        # The name has the hash, and the file only plain data.
        assert path.stem.endswith('-' + sha256_of(path)[:8])
        return path, torch.load(path, weights_only=True)

    @pytest.mark.parametrize('layout', ['bare', 'model, module'])
    def test_there_and_back(
        self,
        layout,
        official,
        official_file,
        build_classifier,
        golden,
        tmp_path,
    ):
        source = official_file(layout)
        path, content = self.run('hatnet2mm', source, tmp_path)
        assert path.name.startswith('hatnet-tiny_in1k-')
        assert content['meta']['source_sha256'] == sha256_of(source)
        model = build_classifier()
        load_checkpoint(model, str(path))
        assert error_of_logits(model, golden) < 5e-5
        path, content = self.run('hatnet2mm', path, tmp_path, '--to-official')
        assert path.name.startswith('HAT-Net_Tiny-')
        expected = official('tiny')
        assert content['model'].keys() == expected.keys()
        for key, value in content['model'].items():
            if 'proj_norm' in key:
                identity = 1 if key.endswith('weight') else 0
                assert (value == identity).all()
                assert value.shape == expected[key].shape
            else:
                assert torch.equal(value, expected[key])

    def test_backbone(self, official_file, golden, tmp_path):
        path, content = self.run(
            'hatnet2mm', official_file(), tmp_path, '--backbone'
        )
        model = HATNet('tiny', **CLS_GRIDS).eval()
        model.load_state_dict(content['state_dict'])
        assert error_of_last_stage(model, golden) < 5e-5
        _, back = self.run('hatnet2mm', path, tmp_path, '--to-official')
        assert not any(key.startswith('classifier') for key in back['model'])

    def test_backbone_of_a_detector(self, official, tmp_path):
        weights = from_official(official('tiny'))
        for key in ('head.fc.weight', 'head.fc.bias'):
            del weights[key]
        weights['neck.conv.weight'] = torch.zeros(1)
        torch.save({'state_dict': weights}, tmp_path / 'epoch_1.pth')
        _, content = self.run(
            'hatnet2mm', tmp_path / 'epoch_1.pth', tmp_path, '--to-official'
        )
        expected = official('tiny')
        assert content['model'].keys() == {
            key for key in expected if not key.startswith('classifier')
        }

    @pytest.mark.parametrize(
        ('damage', 'message'),
        [
            (dict(drop=('ds3.conv.bias',)), r'missing: .*downsamples\.1\.0'),
            ({'extra.weight': torch.zeros(1)}, 'unexpected: extra.weight'),
            ({'ds3.conv.bias': torch.zeros(2)}, 'wrong shape: .*downsamples'),
            ({'ds3.conv.bias': torch.full((240,), torch.inf)}, 'not finite'),
            (
                {'blocks.0.2.attn.norm.bias': torch.zeros(48)},
                r'has \(3, 2, 6, 3\) blocks, like none of tiny, small',
            ),
        ],
    )
    def test_damaged_file(self, damage, message, official_file):
        path = official_file(**damage)
        with pytest.raises(ValueError, match=f'{re.escape(path)}.*{message}'):
            convert_classifier(read_checkpoint(path), path)

    @pytest.mark.parametrize('option', [(), ('--to-official',)])
    def test_another_network(self, option, tmp_path):
        path = tmp_path / 'resnet.pth'
        torch.save({'layer1.0.conv1.weight': torch.zeros(1)}, path)
        error = self.run('hatnet2mm', path, tmp_path, *option, fails=True)
        assert 'is not in the layout' in error
        assert 'layer1.0.conv1.weight' in error
        assert [file.name for file in tmp_path.iterdir()] == ['resnet.pth']

    def test_publish(self, official, tmp_path):
        weights = from_official(official('tiny'))
        content = dict(
            meta=dict(
                cfg='model = dict()',
                dataset_meta=dict(classes=('a', 'b')),
                when=np.float64(1),
            ),
            state_dict=weights,
            message_hub=dict(log={'loss': HistoryBuffer([1.0], [1])}),
            optimizer=dict(state={}),
        )
        torch.save(content, tmp_path / 'epoch_3.pth')
        path, published = self.run(
            'publish_model', tmp_path / 'epoch_3.pth', tmp_path / 'out'
        )
        assert path.name.startswith('epoch_3-')
        assert published.keys() == {'meta', 'state_dict'}
        assert published['meta'] == dict(
            cfg='model = dict()', dataset_meta=dict(classes=('a', 'b'))
        )
        for key, value in published['state_dict'].items():
            assert torch.equal(value, weights[key])


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestSafety:
    @pytest.mark.parametrize('new_format', [True, False])
    def test_nothing_in_a_file_is_run(
        self, new_format, official, tmp_path, golden
    ):
        path = tmp_path / 'evil.pth'
        mark = tmp_path / 'mark'
        torch.save(
            {'model': official('tiny'), 'args': Payload(mark)},
            path,
            _use_new_zipfile_serialization=new_format,
        )
        model = pretrained(str(path))
        assert not mark.exists()
        assert error_of_last_stage(model, golden) < 5e-5
        torch.load(path, weights_only=False)
        assert mark.exists()  # the payload was a real one

    def test_a_payload_instead_of_a_state_dict(self, tmp_path):
        path, mark = tmp_path / 'evil.pth', tmp_path / 'mark'
        path.write_bytes(pickle.dumps(Payload(mark)))
        with pytest.raises(ValueError, match=str(path)):
            read_checkpoint(path)
        torch.save(Payload(mark), path)
        with pytest.raises(ValueError, match='no state dict'):
            read_checkpoint(path)
        assert not mark.exists()

    @pytest.mark.parametrize('content', [b'', b'<html></html>', b'PK\3\4'])
    def test_damaged_file(self, content, tmp_path):
        path = tmp_path / 'damaged.pth'
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match='damaged.pth is not a checkpoint'
        ):
            read_checkpoint(path)

    def test_truncated_file(self, official_file, tmp_path):
        path = tmp_path / 'truncated.pth'
        with open(official_file(), 'rb') as file:
            path.write_bytes(file.read(1_000_000))
        with pytest.raises(ValueError, match='truncated.pth is not a check'):
            read_checkpoint(path)

    def test_absent_file(self):
        with pytest.raises(FileNotFoundError, match='no checkpoint at'):
            pretrained('absent.pth')


def test_unwrap_keeps_tensors_only():
    tensor = torch.zeros(1)
    assert unwrap_state_dict({'module.a': tensor, 'epoch': 3}) == {'a': tensor}
