"""What runs exported files, and distrusts them."""

import json
import subprocess
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmhatnet import runtime
from mmhatnet.deploy.export import describe_steps
from mmhatnet.deploy.predict_files import summarize, to_json
from mmhatnet.deploy.writer import write_hashes
from mmhatnet.runtime.arrays import apply_step, encode, paste, prepare
from mmhatnet.runtime.budget import choose_size
from mmhatnet.runtime.metadata import BAD_METADATA, check_step, read_metadata
from mmhatnet.runtime.model import check_hashes
from mmhatnet.runtime.results import (
    _font,
    classification,
    detection,
    segmentation,
)

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


@pytest.fixture
def files(tmp_path):
    files = [tmp_path / name for name in ('a.onnx', 'a-0.data')]
    for file in files:
        file.write_bytes(bytes(99))
    check_hashes(files[0])  # there are none
    return files


def test_hashes_of_sha256sum(files):
    record = write_hashes(files)
    command = 'sha256sum', '--check', '--strict', 'a.onnx.sha256'
    subprocess.run(command, cwd=record.parent, check=True)
    check_hashes(files[0])


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        *product(('a.onnx', 'a-0.data'), (b'', bytes(98) + b'1', None)),
        # Of a stranger.
        *(('a.onnx.sha256', x) for x in (b'', b'\xff\0', b'0  ../../b')),
    ],
)
def test_hashes_of_other_files(name, content, files):
    record = write_hashes(files)
    file = record.with_name(name)
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match='is missing or was changed'):
        check_hashes(files[0])


@pytest.mark.parametrize('density', [0, 0.01, 0.5, 0.99, 1])
def test_run_lengths(density):
    coco = pytest.importorskip('pycocotools.mask')
    mask = np.random.default_rng(0).random((37, 53)) < density
    found = encode(mask)
    expected = coco.encode(np.asfortranarray(mask, np.uint8))
    assert found['size'] == list(expected['size'])
    assert found['counts'].encode() == expected['counts']


@pytest.mark.parametrize(
    'box', [(3.2, 4.7, 40.1, 30.9), (-5, -5, 70, 60), (10, 10, 10.5, 11)]
)
def test_masks_are_pasted_as_in_mmdet(box):
    module = pytest.importorskip('mmdet.models.roi_heads.mask_heads')
    mask = np.random.default_rng(0).random((28, 28), np.float32)
    mask = cv2.GaussianBlur(mask, (0, 0), 3)
    mask = (mask - mask.min()) / np.ptp(mask)
    tensors = torch.from_numpy(mask)[None, None], torch.tensor([box])
    expected, _ = module.fcn_mask_head._do_paste_mask(
        *tensors, 48, 64, skip_empty=False
    )
    found = paste(mask, np.array(box), (48, 64))
    assert (found != (expected[0].numpy() >= 0.5)).mean() < 2e-3


@pytest.mark.parametrize(
    'steps',
    [
        [dict(type='Resize', scale=(96, 64), keep_ratio=True)],
        [dict(type='Resize', scale=64, interpolation='bicubic')],
        [
            dict(type='ResizeEdge', scale=65, backend='pillow'),
            dict(type='CenterCrop', crop_size=56),
        ],
    ],
)
def test_steps_are_those_of_mm(steps):
    pytest.importorskip('mmpretrain')
    data = dict(pipeline=[*steps, dict(type='PackInputs')])
    cfg = Config(dict(test_dataloader=dict(dataset=data)))
    image = np.random.default_rng(0).integers(0, 256, (75, 101, 3))
    image = image.astype(np.uint8)
    results = dict(img=image, img_shape=image.shape[:2])
    with TRANSFORMS.switch_scope_and_registry('mmpretrain') as registry:
        for step in steps:
            results = registry.build(step)(results)
    for step in describe_steps(cfg):
        check_step(step)
        image = apply_step(image, step)
    assert (image == results['img']).all()


def test_results_as_people_read_them():
    names = ['tree', 'Größe']
    result, *_ = classification(None, [0.612, 0.388], names)
    assert summarize(result) == 'tree 0.61, Größe 0.39'
    labels = np.array([[0, 1], [1, 1]] * 100)
    labels[0, 0] = 255  # the largest of 8 bits
    result, _, found = segmentation(None, labels, [], [])
    assert summarize(result) == '1 75 %, 0 25 %, 255 <1 %'
    assert (found == labels).all()
    # Pillow's own font has one box for all letters beyond ASCII.
    font = _font(100, 'é')
    assert bytes(font.getmask('é')) != bytes(font.getmask('ü'))


def test_picture_of_masks():
    image = np.full((400, 500, 3), 90, np.uint8)
    masks = np.zeros((2, 400, 500), bool)
    masks[0, 100:150, 100:150] = True
    boxes = np.array([[100.0, 100, 150, 150], [0, 0, 10, 10]])
    found = boxes, [0.9, 0.8], [0, 7], iter(masks)
    result, picture, _ = detection(image, *found, ['tree'], [(200, 0, 0)])
    assert picture[125, 125].tolist() == [145, 45, 45]
    assert [x['name'] for x in result['objects']] == ['tree', '7']
