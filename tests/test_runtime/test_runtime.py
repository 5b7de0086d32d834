"""What runs exported files, and distrusts them."""

import json
import subprocess

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmhatnet import runtime
from mmhatnet.deploy.export import describe_steps
from mmhatnet.deploy.predict_files import summarize, to_json
from mmhatnet.deploy.writer import write_hash
from mmhatnet.runtime.arrays import apply_step, encode, paste, prepare
from mmhatnet.runtime.budget import choose
from mmhatnet.runtime.metadata import BAD_METADATA, check_step, read_metadata
from mmhatnet.runtime.model import check_hash
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
FACTOR = dict(
    step='resize_factor', factor=0.5, interpolation='area', backend='cv2'
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
                *({**FACTOR, 'factor': x} for x in (1, 0.0, 1e9, '1')),
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


class Slow:
    """A model that takes 6 ms for 10,000 pixels, and more for a small G2."""

    has_free_grids = True

    def __init__(self, clock, **metadata):
        self.clock, self.metadata = clock, GOOD | metadata

    def set_grids(self, g1, g2):
        self.metadata.update(G1=g1, G2=g2)

    def run(self, images):
        slow = self.metadata.get('G2') == [4, 2, 1]
        self.clock[0] += images[0, 0].size * 6e-7 * (1 + slow)


@pytest.fixture
def clock(monkeypatch):
    found = [0.0]
    monkeypatch.setattr(runtime.budget, 'perf_counter', lambda: found[0])
    return found


def test_size_for_a_budget(clock):
    """The largest size within a budget."""
    steps = [RESIZE | dict(scale=[512, 512])]
    for budget, size in (1000, (512, 384)), (30, (256, 192)), (9, (128, 96)):
        model = Slow(clock, steps=steps)
        ms = choose(model, budget)
        images = prepare(np.zeros((480, 640, 3), np.uint8), model.metadata)
        assert images.shape[:1:-1] == size
        assert ms == pytest.approx(size[0] * size[1] * 6e-4)
    with pytest.raises(ValueError, match='the fastest takes 7.4 ms'):
        choose(Slow(clock, steps=steps), 1)
    model = Slow(clock, steps=[])  # takes images at their own size
    assert choose(model, 50) == pytest.approx(480 * 640 * 6e-4 / 4)
    (step,) = model.metadata['steps']
    assert step['factor'] == pytest.approx(0.5)
    check_step(step)


def test_setting_for_a_budget(clock):
    """The best setting of a curve, whose times are of another machine."""
    rows = [
        dict(G1=[8, 8, 8], G2=g2, factor=factor, metric=metric, ms=ms)
        for g2, factor, metric, ms in (
            ([8, 4, 2], 1, 80, 10),
            ([4, 2, 1], 1, 82, 20),
            ([8, 4, 2], 0.5, 70, 2.5),
            ([4, 2, 1], 0.5, 71, 5),
        )
    ]
    steps = [RESIZE | dict(scale=[512, 512])]
    for budget, row in (300, 1), (200, 0), (60, 3), (30, 2):
        model = Slow(clock, steps=steps, curve=dict(rows=rows))
        assert choose(model, budget) <= budget
        assert model.metadata['G2'] == rows[row]['G2']
        scale = model.metadata['steps'][0]['scale']
        assert scale == [512 * rows[row]['factor']] * 2
    # The curve of a file with fixed G1 and G2 has sizes alone.
    model = Slow(clock, steps=steps, curve=dict(rows=rows[::2]))
    model.has_free_grids = model.set_grids = False
    assert choose(model, 30) <= 30


def test_nan_in_results():
    """JSON has no NaN."""
    with pytest.raises(ValueError, match='are its weights damaged'):
        to_json(dict(score=float('nan')))


@pytest.fixture
def file(tmp_path):
    file = tmp_path / 'a.onnx'
    file.write_bytes(bytes(99))
    check_hash(file)  # there is none
    return file


def test_hash_of_sha256sum(file):
    record = write_hash(file)
    command = 'sha256sum', '--check', '--strict', 'a.onnx.sha256'
    subprocess.run(command, cwd=record.parent, check=True)
    check_hash(file)


@pytest.mark.parametrize(
    ('suffix', 'content'),
    [
        *(('.onnx', x) for x in (b'', bytes(98) + b'1')),
        # Of a stranger.
        *(('.onnx.sha256', x) for x in (b'', b'\xff\0', b'0  a.onnx')),
    ],
)
def test_hash_of_another_file(suffix, content, file):
    write_hash(file)
    file.with_suffix(suffix).write_bytes(content)
    with pytest.raises(ValueError, match='was changed after its export'):
        check_hash(file)


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


def test_pictures():
    image = np.full((400, 500, 3), 90, np.uint8)
    masks = np.zeros((2, 400, 500), bool)
    masks[0, 100:150, 100:150] = True
    boxes = np.array([[100.0, 100, 150, 150], [0, 0, 10, 10]])
    found = boxes, [0.9, 0.8], [0, 7], iter(masks)
    names, palette = ['tree'], [(200, 0, 0)]
    _, picture, _ = segmentation(image, ~masks[0], names, palette)
    assert picture[125, 125].tolist() == [156, 36, 36]
    result, picture, _ = detection(image, *found, names, palette)
    assert picture[125, 125].tolist() == [145, 45, 45]
    assert [x['name'] for x in result['objects']] == ['tree', '7']
