"""Our operators are equal to those that mmcv compiles, and to formulas."""

import importlib
import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import DEMOS, TORCH, run_tool
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhatnet import operators
from mmhatnet.operators import ext

compiled = pytest.mark.skipif(
    operators.describe_operators() != 'mmcv',
    reason='the installed mmcv has no compiled operators',
)
CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture
def run(monkeypatch):
    """Function that runs a function of mmcv.ops over a module of operators.

    It returns the result and the gradients of floating inputs.
    """

    def run(path, module, *inputs, **options):
        file, name = path.split('.')
        ops = importlib.import_module(f'mmcv.ops.{file}')
        monkeypatch.setattr(ops, 'ext_module', module)
        inputs = [
            x.detach().clone().requires_grad_()
            if isinstance(x, torch.Tensor) and x.is_floating_point()
            else x
            for x in inputs
        ]
        out = getattr(ops, name)(*inputs, **options)
        if not isinstance(out, torch.Tensor) or not out.requires_grad:
            return [out]
        factors = torch.linspace(-1, 2, out.numel()).view_as(out).to(out)
        (out * factors).sum().backward()
        grads = [x.grad for x in inputs if isinstance(x, torch.Tensor)]
        return [out.detach(), *(x for x in grads if x is not None)]

    return run


@pytest.fixture
def compare(run):
    """Function that asserts that both modules have the same results."""

    def compare(path, *inputs, **options):
        theirs = importlib.import_module(operators.NAME)
        tolerance = options.pop('tolerance', CLOSE)
        expected = run(path, theirs, *inputs, **options)
        found = run(path, ext, *inputs, **options)
        torch.testing.assert_close(
            found, expected, equal_nan=True, **tolerance
        )

    return compare


def make_boxes(rng, count, kind='plain'):
    if kind == 'integer':  # many overlaps are exactly a threshold
        corners = rng.integers(0, 12, (count, 4)).astype(np.float32)
    elif kind == 'huge':
        corners = rng.uniform(-1e9, 1e9, (count, 4)).astype(np.float32)
    else:
        corners = rng.uniform(-5, 60, (count, 4)).astype(np.float32)
    boxes = np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    if kind == 'degenerate':
        boxes[::2, 2:] = boxes[::2, :2]
        boxes[1::4] = boxes[1::4][:, [2, 3, 0, 1]]
    return torch.from_numpy(boxes)


def make_scores(rng, count, kind='plain'):
    scores = rng.random(count, dtype=np.float32)
    if kind == 'ties':
        scores = np.round(scores * 3) / 3
    if kind == 'nan':
        scores[::5] = np.nan
    return torch.from_numpy(scores)


BOXES = 'plain', 'integer', 'huge', 'degenerate'
SCORES = 'plain', 'ties', 'nan'
boxes_and_scores = dict(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([0, 1, 2, 7, 40, 300]),
    boxes=st.sampled_from(BOXES),
    scores=st.sampled_from(SCORES),
    threshold=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 1.0]),
)


def draw(seed, count, boxes, scores):
    rng = np.random.default_rng(seed)
    return make_boxes(rng, count, boxes), make_scores(rng, count, scores)


@compiled
@settings(deadline=None, max_examples=300)
@given(**boxes_and_scores, offset=st.sampled_from([0, 1]))
def test_nms(seed, count, boxes, scores, threshold, offset):
    theirs = importlib.import_module(operators.NAME)
    if offset and boxes == 'huge':
        boxes = 'plain'  # 1 is less than the distance of numbers
    boxes, scores = draw(seed, count, boxes, scores)
    expected = theirs.nms(boxes, scores, threshold, offset)
    assert torch.equal(ext.nms(boxes, scores, threshold, offset), expected)
    spread = boxes.repeat(1, 2)[:, :4].mT.contiguous().mT
    assert torch.equal(ext.nms(spread, scores, threshold, offset), expected)


@compiled
@settings(deadline=None, max_examples=300)
@given(
    **boxes_and_scores,
    offset=st.sampled_from([0, 1]),
    method=st.sampled_from([0, 1, 2]),
    lowest=st.sampled_from([0.0, 0.001, 0.2]),
)
def test_softnms(
    seed, count, boxes, scores, threshold, offset, method, lowest
):
    theirs = importlib.import_module(operators.NAME)
    boxes, scores = draw(seed, count, boxes, scores)
    found = []
    for module in (theirs, ext):
        dets = torch.zeros(count, 5)
        kept = module.softnms(
            boxes,
            scores.clone(),
            dets,
            iou_threshold=threshold,
            sigma=0.5,
            min_score=lowest,
            method=method,
            offset=offset,
        )
        found.append([kept, dets[: len(kept)]])
    torch.testing.assert_close(*found, equal_nan=True, **CLOSE)


@compiled
@settings(deadline=None)
@given(**boxes_and_scores)
def test_nms_match(seed, count, boxes, scores, threshold):
    theirs = importlib.import_module(operators.NAME)
    boxes, scores = draw(seed, count, boxes, scores)
    dets = torch.cat([boxes, scores[:, None]], 1)
    expected = theirs.nms_match(dets, threshold) if count else []
    assert ext.nms_match(dets, threshold) == expected


def make_regions(seed, count=12):
    rng = np.random.default_rng(seed)
    kind = 'integer' if seed % 3 == 0 else 'plain'
    boxes = make_boxes(rng, count, kind)
    boxes[::7, 2:] = boxes[::7, :2]  # without an area
    images = torch.from_numpy(rng.integers(0, 2, (count, 1)))
    return torch.cat([images.float(), boxes], 1)


@compiled
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('count', [0, 1, 12])
def test_roi_align(compare, count, ratio, mode, aligned):
    for seed in range(4):
        torch.manual_seed(seed)
        regions = make_regions(seed, count)
        maps = torch.randn(2, 3, 9, 14)
        sizes = (5, 3), 0.25, ratio, mode, aligned
        path = 'roi_align.roi_align'
        compare(path, maps, regions, *sizes)
        compare(path, maps.double(), regions.double(), *sizes)
        compare(path, maps.mT.contiguous().mT.contiguous(), regions, *sizes)


@compiled
@pytest.mark.parametrize('zero', [False, True])
@pytest.mark.parametrize('seed', range(4))
def test_deformable_convolutions(compare, seed, zero):
    torch.manual_seed(seed)
    groups, deform_groups = 1 + seed % 2, 1 + seed // 2
    sizes = (2, 1), (1, 2), (1, 2)
    x, weight = torch.randn(2, 4, 9, 8), torch.randn(6, 4 // groups, 3, 2)
    shape = F.conv2d(x, weight, None, *sizes, groups).shape[2:]
    offset = torch.randn(2, deform_groups * 12, *shape) * 3
    mask = torch.rand(2, deform_groups * 6, *shape)
    if zero:  # all layers begin so, at the kinks of the interpolation
        offset = torch.zeros_like(offset)
    ends = groups, deform_groups
    v2 = 'modulated_deform_conv.modulated_deform_conv2d'
    for dtype in (torch.float32, torch.float64):
        x, offset, mask, weight = (
            y.to(dtype) for y in (x, offset, mask, weight)
        )
        bias = torch.randn(6, dtype=dtype)
        compare('deform_conv.deform_conv2d', x, offset, weight, *sizes, *ends)
        compare(v2, x, offset, mask, weight, bias, *sizes, *ends)
        compare(v2, x, offset, mask, weight, None, *sizes, *ends)


@compiled
@pytest.mark.parametrize('kind', [0, 1])
@pytest.mark.parametrize('size', [(3, 5), (9, 7)])
def test_psamask(compare, size, kind):
    x = torch.randn(2, size[0] * size[1], 5, 4)
    compare('psa_mask.psa_mask', x, kind, size)


@compiled
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(run, dtype):
    """It is as near to float32 as the dtype allows; mmcv has float16."""
    theirs = importlib.import_module(operators.NAME)
    eps = torch.finfo(dtype).eps
    maps, regions = torch.randn(2, 3, 9, 14), make_regions(1).round()
    for mode in ('avg', 'max'):
        sizes = (5, 3), 0.25, 2, mode
        path = 'roi_align.roi_align'
        expected = run(path, theirs, maps, regions, *sizes)
        found = run(path, ext, maps.to(dtype), regions.to(dtype), *sizes)
        for half, full in zip(found, expected, strict=True):
            assert half.dtype == dtype
            near = dict(atol=8 * eps * full.abs().max().item(), rtol=0)
            torch.testing.assert_close(half.float(), full, **near)


# What follows needs no compiled operators. The first are those that mmcv
# compiles for GPUs alone.


def test_sigmoid_focal_loss(run):
    gamma, alpha = 1.5, 0.3
    x = torch.cat([torch.randn(50, 4) * 3, torch.tensor([[-99.0, 99, 0, 1]])])
    target = torch.randint(5, (51,))
    for weight in (None, torch.rand(4)):
        found, grad = run(
            'focal_loss.sigmoid_focal_loss',
            ext,
            *(x, target, gamma, alpha, weight, 'none'),
        )
        wide = x.double().requires_grad_()
        p = torch.where(F.one_hot(target, 5)[:, :4] > 0, wide, -wide)
        balance = torch.where(
            F.one_hot(target, 5)[:, :4] > 0, alpha, 1 - alpha
        )
        expected = -balance * (-p).sigmoid() ** gamma * F.logsigmoid(p)
        if weight is not None:
            factors = F.pad(weight, (0, 1), value=1)[target]
            expected = expected * factors[:, None]
        torch.testing.assert_close(found.double(), expected, **CLOSE)
        factors = torch.linspace(-1, 2, found.numel()).view_as(found)
        (expected * factors).sum().backward()
        torch.testing.assert_close(grad.double(), wide.grad, **CLOSE)


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_softmax_focal_loss(run, reduction):
    gamma, alpha = 1.5, 0.3
    x, target = torch.randn(50, 4).double() * 3, torch.randint(4, (50,))
    for weight in (None, torch.rand(4).double()):
        found, grad = run(
            'focal_loss.softmax_focal_loss',
            ext,
            *(x, target, gamma, alpha, weight, reduction),
        )
        wide = x.clone().requires_grad_()
        p = wide.softmax(1).gather(1, target[:, None])[:, 0]
        loss = -alpha * (1 - p) ** gamma * p.log()
        if weight is not None:
            loss = loss * weight[target]
        expected = getattr(loss, reduction)()
        torch.testing.assert_close(found, expected, **CLOSE)
        (-expected).backward()  # run() multiplies by the factor -1
        torch.testing.assert_close(grad, wide.grad, **CLOSE)


def at(plane, y, x):
    """The value of a map between pixels, as mmcv defines it."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.sum() * 0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    rows, columns = (
        [top, min(top + 1, height - 1)],
        [left, min(left + 1, width - 1)],
    )
    low, right = y - top, x - left
    parts = plane[rows][:, columns]
    factors = parts.new_tensor(
        [
            [(1 - low) * (1 - right), (1 - low) * right],
            [low * (1 - right), low * right],
        ]
    )
    return (parts * factors).sum()


def naive_roi_align(maps, regions, size, scale, ratio, mode, aligned):
    out = maps.new_zeros(len(regions), maps.shape[1], *size)
    for number, (image, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = (value * scale - 0.5 * aligned for value in box)
        sides = y2 - y1, x2 - x1
        if not aligned:
            sides = tuple(max(side, 1.0) for side in sides)
        bins = [side / n for side, n in zip(sides, size, strict=True)]
        grid = [ratio or math.ceil(side) for side in bins]
        for index in np.ndindex(*out.shape[1:]):
            values = [
                at(
                    maps[int(image), index[0]],
                    y1 + (index[1] + (i + 0.5) / grid[0]) * bins[0],
                    x1 + (index[2] + (j + 0.5) / grid[1]) * bins[1],
                )
                for i in range(grid[0])
                for j in range(grid[1])
            ]
            if values:
                best = (
                    max(values) if mode == 'max' else sum(values) / len(values)
                )
                out[number, index[0], index[1], index[2]] = best
            elif mode == 'max':
                out[number] = -10000
    return out


def naive_roi_pool(maps, regions, size, scale):
    out = maps.new_zeros(len(regions), maps.shape[1], *size)
    for number, (image, x1, y1, x2, y2) in enumerate(regions.tolist()):
        edges = []
        for first, last, count, length in (
            (y1, y2, size[0], maps.shape[2]),
            (x1, x2, size[1], maps.shape[3]),
        ):
            side = (last + 1 - first) * scale / count
            edges.append(
                [
                    slice(
                        *(
                            min(max(f(n * side + first * scale), 0), length)
                            for f, n in ((math.floor, i), (math.ceil, i + 1))
                        )
                    )
                    for i in range(count)
                ]
            )
        for i, j in np.ndindex(*size):
            part = maps[int(image)][:, edges[0][i], edges[1][j]].flatten(1)
            if part.shape[1]:
                out[number, :, i, j] = part.max(1)[0]
    return out


@pytest.mark.parametrize('seed', range(3))
def test_regions_by_formula(run, seed):
    torch.manual_seed(seed)
    maps, regions = (
        torch.randn(2, 2, 7, 9).double(),
        make_regions(seed).double(),
    )
    cases = [
        ('roi_align.roi_align', naive_roi_align, (0.25, ratio, mode, aligned))
        for ratio in (0, 2)
        for mode in ('avg', 'max')
        for aligned in (False, True)
    ]
    cases.append(('roi_pool.roi_pool', naive_roi_pool, (0.25,)))
    for path, naive, options in cases:
        found, *grads = run(path, ext, maps, regions, (3, 2), *options)
        wide = maps.clone().requires_grad_()
        expected = naive(wide, regions, (3, 2), *options)
        torch.testing.assert_close(found, expected.detach(), **CLOSE)
        factors = torch.linspace(-1, 2, found.numel()).view_as(found)
        (expected * factors.to(found)).sum().backward()
        torch.testing.assert_close(grads[0], wide.grad, **CLOSE)


def test_carafe(run):
    features = torch.randn(2, 4, 3, 5).double()
    masks = torch.rand(2, 2 * 9, 6, 10).double()
    wide = [x.clone().requires_grad_() for x in (features, masks)]
    padded = F.pad(wide[0], (1, 1, 1, 1))
    expected = torch.stack(
        [
            torch.stack(
                [
                    (
                        padded[:, c, i // 2 : i // 2 + 3, j // 2 : j // 2 + 3]
                        * wide[1][:, c // 2 * 9 : c // 2 * 9 + 9, i, j].view(
                            2, 3, 3
                        )
                    ).sum((1, 2))
                    for i in range(6)
                    for j in range(10)
                ],
                1,
            ).view(2, 6, 10)
            for c in range(4)
        ],
        1,
    )
    found, *grads = run('carafe.carafe', ext, features, masks, 3, 2, 2)
    torch.testing.assert_close(found, expected, **CLOSE)
    naive = torch.zeros_like(found)
    ext.carafe_naive_forward(features, masks, naive, 3, 2, 2)
    torch.testing.assert_close(naive, found)
    factors = torch.linspace(-1, 2, found.numel()).view_as(found)
    (expected * factors.to(found)).sum().backward()
    torch.testing.assert_close(grads, [x.grad for x in wide], **CLOSE)


@pytest.mark.parametrize('padding', [0, 1, 2])
def test_masked_convolution(run, padding):
    x, weight, bias = (
        torch.randn(1, 3, 7, 6),
        torch.randn(4, 3, 3, 3),
        torch.randn(4),
    )
    expected = F.conv2d(x, weight, bias, padding=padding)
    mask = torch.zeros(1, 7, 6)
    mask[:, : expected.shape[2], : expected.shape[3]] = 1
    mask[:, ::2, ::3] = 0
    with torch.no_grad():
        found = run(
            'masked_conv.masked_conv2d', ext, x, mask, weight, bias, padding
        )[0]
    kept = F.pad(mask, (0, 2, 0, 2))[:, : found.shape[2], : found.shape[3]]
    torch.testing.assert_close(found, expected * kept, **CLOSE)


def test_multi_scale_attention(run):
    from mmcv.ops.multi_scale_deform_attn import (
        multi_scale_deformable_attn_pytorch,
    )

    shapes = torch.tensor([[4, 5], [2, 3]])
    starts = torch.tensor([0, 20])
    value = torch.randn(2, 26, 2, 4)
    places = torch.rand(2, 7, 2, 2, 3, 2) * 1.4 - 0.2
    weights = torch.rand(2, 7, 2, 2, 3)
    wide = [x.clone().requires_grad_() for x in (value, places, weights)]
    expected = multi_scale_deformable_attn_pytorch(wide[0], shapes, *wide[1:])
    out = ext.ms_deform_attn_forward(
        value, shapes, starts, places, weights, 64
    )
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    expected.backward(grad)
    grads = [torch.zeros_like(x) for x in (value, places, weights)]
    ext.ms_deform_attn_backward(
        value, shapes, starts, places, weights, grad, *grads, 64
    )
    torch.testing.assert_close(grads, [x.grad for x in wide])


CASES = {
    'roi_align.roi_align': lambda: (
        torch.randn(2, 3, 9, 14),
        make_regions(1).round(),
        *((5, 3), 0.25, 2, 'avg'),
    ),
    'roi_pool.roi_pool': lambda: (
        torch.randn(2, 3, 9, 14),
        make_regions(1).round(),
        *((5, 3), 0.25),
    ),
    'focal_loss.sigmoid_focal_loss': lambda: (
        torch.randn(50, 4),
        torch.randint(5, (50,)),
        *(2.0, 0.25, torch.rand(4), 'sum'),
    ),
    'focal_loss.softmax_focal_loss': lambda: (
        torch.randn(50, 4),
        torch.randint(4, (50,)),
        *(2.0, 0.25, torch.rand(4), 'sum'),
    ),
    'deform_conv.deform_conv2d': lambda: (
        torch.randn(2, 4, 9, 8),
        # Half a pixel from the kinks, which rounding would cross.
        torch.randint(-2, 3, (2, 18, 9, 8)) + 0.5,
        torch.randn(6, 4, 3, 3),
        *(1, 1),
    ),
    'modulated_deform_conv.modulated_deform_conv2d': lambda: (
        torch.randn(2, 4, 9, 8),
        torch.randint(-2, 3, (2, 18, 9, 8)) + 0.5,
        torch.rand(2, 9, 9, 8),
        torch.randn(6, 4, 3, 3),
        *(torch.randn(6), 1, 1),
    ),
    'carafe.carafe': lambda: (
        torch.randn(2, 4, 3, 5),
        torch.rand(2, 18, 6, 10),
        *(3, 2, 2),
    ),
    'psa_mask.psa_mask': lambda: (torch.randn(2, 15, 5, 4), 0, (3, 5)),
}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('path', CASES)
def test_dtypes(run, path, dtype):
    """Half precision is as near to float32 as the dtype allows."""
    inputs = CASES[path]()
    halves = [
        x.to(dtype)
        if isinstance(x, torch.Tensor) and x.is_floating_point()
        else x
        for x in inputs
    ]
    same = [
        x.float() if isinstance(x, torch.Tensor) and x.dtype == dtype else x
        for x in halves
    ]
    expected = run(path, ext, *same)
    found = run(path, ext, *halves)
    # That of an older torch has no float16 on a CPU.
    with torch.autocast('cpu', dtype if TORCH > (2, 2) else torch.bfloat16):
        mixed = run(path, ext, *same)
    eps = torch.finfo(dtype).eps
    for half, cast, full in zip(found, mixed, expected, strict=True):
        assert half.dtype == dtype
        near = dict(atol=8 * eps * full.abs().max().item(), rtol=0)
        torch.testing.assert_close(half.float(), full, **near)
        # Autocast rounds nothing here, since mmcv's kernels do not.
        torch.testing.assert_close(cast, full)


@pytest.mark.skipif(
    TORCH < (2, 8), reason='an older torch follows fewer functions'
)
# The others select regions or pixels by their values.
@pytest.mark.parametrize(
    'path', sorted(CASES.keys() - {'roi_pool.roi_pool', 'psa_mask.psa_mask'})
)
def test_compiles_without_graph_breaks(run, path):
    file, name = path.split('.')
    inputs = CASES[path]()
    function = getattr(importlib.import_module(f'mmcv.ops.{file}'), name)
    expected = run(path, ext, *inputs)  # and leaves ext in its place
    graph = torch.compile(function, backend='aot_eager', fullgraph=True)
    wide = [
        x.clone().requires_grad_()
        if isinstance(x, torch.Tensor) and x.is_floating_point()
        else x
        for x in inputs
    ]
    out = graph(*wide)
    factors = torch.linspace(-1, 2, out.numel()).view_as(out)
    (out * factors).sum().backward()
    grads = [x.grad for x in wide if isinstance(x, torch.Tensor)]
    found = [out.detach(), *(x for x in grads if x is not None)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('choice', 'place'), [('', -1), ('torchvision', 0), ('mmcv', None)]
)
def test_choice(choice, place, monkeypatch):
    monkeypatch.setenv(operators.VARIABLE, choice)
    others = [f for f in sys.meta_path if f is not operators.Finder]
    monkeypatch.setattr(sys, 'meta_path', [*others])
    for name in (operators.NAME, *operators.USERS):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for _ in range(2):
        operators.install_operators()
    if place is not None:
        assert sys.meta_path[place] is operators.Finder
    assert len(sys.meta_path) == len(others) + (place is not None)


def test_choice_that_is_wrong_or_late(monkeypatch):
    monkeypatch.setattr(sys, 'meta_path', [])
    monkeypatch.setenv(operators.VARIABLE, 'tensorflow')
    message = '^MMHATNET_OPERATORS=tensorflow is neither torchvision nor mmcv$'
    with pytest.raises(ValueError, match=message):
        operators.install_operators()
    monkeypatch.setenv(operators.VARIABLE, 'torchvision')
    monkeypatch.setitem(sys.modules, 'mmdet.models', sys)
    with pytest.raises(ImportError, match='comes too late, after mm'):
        operators.install_operators()
    monkeypatch.setenv(operators.VARIABLE, '')
    monkeypatch.delitem(sys.modules, operators.NAME, raising=False)
    monkeypatch.setattr(operators, 'find_spec', lambda name: None)
    with pytest.warns(UserWarning, match='^mmdet.* has no operators of mmcv'):
        operators.install_operators()


def test_absent_operator_says_what_it_needs():
    with pytest.raises(ImportError, match='^nms_rotated needs .*setup_env.sh'):
        ext.nms_rotated(torch.zeros(1, 5), torch.zeros(1))
    assert not hasattr(ext, '__path__')


HIDE = """
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    def find_spec(name, *args):
        if name != 'mmcv._ext':
            return PathFinder.find_spec(name, *args)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden
"""


def test_operators_of_an_mmcv_without_any():
    """They are found without being asked for, and can be refused."""
    code = f"""{HIDE}
import mmhatnet
from mmhatnet.operators import describe_operators
assert not {{'mmcv.ops', 'mmcv._ext', 'torchvision'}} & {{*sys.modules}}
print(describe_operators())
model = mmhatnet.get_model({DEMOS['Object Detection']!r})
print('loaded' if 'mmcv._ext' in sys.modules else '')
"""
    lines = run_tool('-c', code).splitlines()
    assert lines[0] == 'torchvision'
    assert lines[-1] == 'loaded'
    begin, end = code.split('model = ')
    code = f"""{begin}
try:
    {end.splitlines()[0]}
except ImportError as error:
    print(error)
"""
    out = run_tool('-c', code, MMHATNET_OPERATORS='mmcv')
    assert 'none' in out
    assert 'run tools/setup_env.sh' in out


def test_program_that_imports_mmdet_first(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text("""\
import sys
from mmcv.ops import get_compiler_version
if __name__ == '__main__':
    print(sys.argv[1:], get_compiler_version())
""")
    out = run_tool(
        '-m',
        'mmhatnet.operators',
        *(program, '--a'),
        MMHATNET_OPERATORS='torchvision',
    )
    assert "['--a'] none (operators of torchvision" in out


TRAIN = """
import copy, json, torch, warnings
warnings.simplefilter('ignore')
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmhatnet.datasets.random_batch import make_batch
from mmhatnet.apis.zoo import load_model_config
import mmcv.ops
cfg = load_model_config({name!r})
init_default_scope('mmdet')
torch.manual_seed(0)
model = MODELS.build(cfg.model)
model.init_weights()
options = ConfigDict(cfg.optim_wrapper)
wrapper = build_optim_wrapper(model.train(), options)
losses = []
for step in range(2):
    torch.manual_seed(step)
    batch = make_batch('mmdet', (128, 128))
    logs = model.train_step(copy.deepcopy(batch), wrapper)
    losses.append({{k: v.item() for k, v in logs.items()}})
# A head without training finds too little.
for name, weight in model.named_parameters():
    if name.endswith(('retina_cls.weight', 'fc_cls.weight')):
        torch.nn.init.normal_(weight)
with torch.no_grad():
    found = model.eval().test_step(batch)[0].pred_instances
print(json.dumps([
    mmcv.ops.get_compiler_version(),
    losses,
    *(found[key][:20].tolist() for key in ('bboxes', 'scores', 'labels')),
]))
"""


@compiled
@pytest.mark.slow
@pytest.mark.parametrize('task', ['Object Detection', 'Instance Segmentation'])
def test_training_and_prediction_are_those_of_mmcv(task):
    code = TRAIN.format(name=DEMOS[task])
    ours, theirs = (
        json.loads(
            run_tool('-c', code, MMHATNET_OPERATORS=choice).splitlines()[-1]
        )
        for choice in operators.CHOICES
    )
    assert 'torchvision' in ours.pop(0)
    assert 'torchvision' not in theirs.pop(0)
    for found, expected in zip(ours[0], theirs[0], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert len(ours[1]) > 0
    for found, expected in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
