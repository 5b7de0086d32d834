"""What runs exported files, and distrusts them."""

import json
import subprocess

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmhatnet import runtime
from mmhatnet.deploy.predict_files import to_json
from mmhatnet.deploy.writer import write_hashes
from mmhatnet.runtime.arrays import apply_step, encode, paste, prepare
from mmhatnet.runtime.budget import choose_size
from mmhatnet.runtime.metadata import BAD_METADATA, check_step, read_metadata
from mmhatnet.runtime.model import check_hashes

RESIZE = dict(
    step='resize',
    scale=[64, 32],
    keep_ratio=True,
    interpolation='bilinear',
    backend='cv2',
)
GOOD = dict(kind='detection', channels='RGB', classes=['tree'], steps=[RESIZE])


@pytest.mark.parametrize(
    'change',
    [
        *('', '[]', '1', '{}', 100000 * '['),
        *(dict(kind='poem'), dict(kind=[]), dict(classes='tree')),
        *(dict(classes=[name]) for name in (1, '\x1b[2J', 10**4 * 'a')),
        *(
            dict(palette=[colour])
            for colour in (None, 1, [1], [1, 2, 300], [1, 2, '3'], 4 * [1])
        ),
        *(
            dict(steps=[step])
            for step in (
                *(1, dict(step='rotate'), dict(step='center_crop')),
                *(dict(step='center_crop', size=x) for x in (0, True)),
                *({**RESIZE, 'scale': x} for x in ([64], [64, '64'])),
                {**RESIZE, 'scale': [64, 10**9]},
                {**RESIZE, 'interpolation': None},
                {**RESIZE, 'interpolation': 'area', 'backend': 'pillow'},
                {**RESIZE, 'backend': 'foo'},
            )
        ),
    ],
)
def test_metadata_of_strangers(change):
    assert read_metadata(json.dumps(GOOD))['palette'] == []
    text = change if isinstance(change, str) else json.dumps(GOOD | change)
    with pytest.raises(BAD_METADATA):
        read_metadata(text)


def test_size_for_a_budget(monkeypatch):
    """The largest size within a budget, at 10,000 pixels in 6 ms."""
    clock = [0.0]
    monkeypatch.setattr(runtime.budget, 'perf_counter', lambda: clock[0])

    def run(images):
        clock[0] += images[0, 0].size * 6e-7

    metadata = GOOD | dict(steps=[RESIZE | dict(scale=[512, 512])])
    for budget, size in (1000, (512, 384)), (30, (256, 192)), (9, (128, 96)):
        steps, ms = choose_size(run, metadata, budget)
        photo = np.zeros((480, 640, 3), np.uint8)
        images = prepare(photo, GOOD | dict(steps=steps))
        assert images.shape[:1:-1] == size
        assert ms == pytest.approx(size[0] * size[1] * 6e-4)
    with pytest.raises(ValueError, match='the fastest takes 7.4 ms'):
        choose_size(run, metadata, 1)
    with pytest.raises(ValueError, match='at their own size'):
        choose_size(run, GOOD | dict(steps=[]), 1)


def test_nan_in_results():
    """JSON has no NaN."""
    with pytest.raises(ValueError, match='are its weights damaged'):
        to_json(dict(score=float('nan')))


class TestHashes:
    """Beside a file, as sha256sum writes them."""

    @pytest.fixture
    def files(self, tmp_path):
        files = [tmp_path / name for name in ('a.onnx', 'a-0.data')]
        for file in files:
            file.write_bytes(bytes(99))
        check_hashes(files[0])  # there are none
        return files

    def test_of_sha256sum(self, files):
        record = write_hashes(files)
        command = 'sha256sum', '--check', '--strict', 'a.onnx.sha256'
        subprocess.run(command, cwd=record.parent, check=True)
        check_hashes(files[0])

    @pytest.mark.parametrize('name', ['a.onnx', 'a-0.data'])
    @pytest.mark.parametrize('change', [b'', bytes(98) + b'1', None])
    def test_changes(self, name, change, files):
        record = write_hashes(files)
        file = record.with_name(name)
        file.unlink() if change is None else file.write_bytes(change)
        with pytest.raises(ValueError, match=f'{name} is missing or was'):
            check_hashes(files[0])

    @pytest.mark.parametrize(
        'text', [b'', b'\xff\0', b'0  a.onnx', b'\n\n', b'0  ../../b']
    )
    def test_records_of_a_stranger(self, text, files):
        (files[0].with_name('a.onnx.sha256')).write_bytes(text)
        with pytest.raises(ValueError, match='is missing or was changed'):
            check_hashes(files[0])


class TestRuntime:
    """The parts that have no model, against the libraries'."""

    @pytest.mark.parametrize('density', [0, 0.01, 0.5, 0.99, 1])
    def test_run_lengths(self, density):
        coco = pytest.importorskip('pycocotools.mask')
        random = np.random.default_rng(0)
        mask = random.random((37, 53)) < density
        expected = coco.encode(np.asfortranarray(mask, np.uint8))
        found = encode(mask)
        assert found['size'] == list(expected['size'])
        assert found['counts'].encode() == expected['counts']

    @pytest.mark.parametrize(
        'box', [(3.2, 4.7, 40.1, 30.9), (-5, -5, 70, 60), (10, 10, 10.5, 11)]
    )
    def test_masks_are_pasted_as_in_mmdet(self, box):
        pytest.importorskip('mmdet')
        from mmdet.models.roi_heads.mask_heads.fcn_mask_head import (
            _do_paste_mask,
        )

        mask = np.random.default_rng(0).random((28, 28), np.float32)
        mask = cv2.GaussianBlur(mask, (0, 0), 3)
        mask = (mask - mask.min()) / np.ptp(mask)
        expected, _ = _do_paste_mask(
            torch.from_numpy(mask)[None, None],
            torch.tensor([box]),
            48,
            64,
            skip_empty=False,
        )
        found = paste(mask, np.array(box), (48, 64))
        assert (found != (expected[0].numpy() >= 0.5)).mean() < 2e-3

    @pytest.mark.parametrize(
        'steps',
        [
            [dict(type='Resize', scale=(96, 64), keep_ratio=True)],
            [dict(type='Resize', scale=64, interpolation='bicubic')],
            [
                dict(type='ResizeEdge', scale=64, backend='pillow'),
                dict(type='CenterCrop', crop_size=56),
            ],
        ],
    )
    def test_steps_are_those_of_mm(self, steps):
        pytest.importorskip('mmpretrain')
        from mmengine.registry import TRANSFORMS, DefaultScope

        from mmhatnet.deploy.export import describe_steps

        data = dict(pipeline=[*steps, dict(type='PackInputs')])
        cfg = Config(dict(test_dataloader=dict(dataset=data)))
        image = np.random.default_rng(0).integers(0, 256, (75, 101, 3))
        image = expected = image.astype(np.uint8)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            for step in steps:
                results = TRANSFORMS.build(step)(
                    dict(img=expected, img_shape=expected.shape[:2])
                )
                expected = results['img']
        for step in describe_steps(cfg):
            check_step(step)
            image = apply_step(image, step)
        assert (image == expected).all()
