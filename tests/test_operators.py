"""Our operators are equal to those that mmcv compiles, and to formulas."""

import importlib
import math
import sys
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise, product
from operator import attrgetter

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import DEMOS, TORCH, run_tool
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhatnet import operators
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.datasets.random_batch import make_batch
from mmhatnet.operators import ext

CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module')
def theirs():
    """The module that mmcv compiles."""
    if operators.describe_operators() != 'mmcv':
        pytest.skip('the installed mmcv has no compiled operators')
    return importlib.import_module(operators.NAME)


def change(inputs, function):
    """Apply a function to the floating tensors."""
    return [
        function(x)
        if isinstance(x, torch.Tensor) and x.is_floating_point()
        else x
        for x in inputs
    ]


def differentiate(function, *inputs):
    """The result, and the gradients of the inputs that have one."""
    inputs = change(inputs, lambda x: x.detach().clone().requires_grad_())
    out = function(*inputs)
    if not isinstance(out, torch.Tensor) or not out.requires_grad:
        return [out]
    factors = torch.linspace(-1, 2, out.numel()).view_as(out).to(out)
    (out * factors).sum().backward()
    grads = [x.grad for x in inputs if isinstance(x, torch.Tensor)]
    return [out.detach(), *(x for x in grads if x is not None)]


@contextmanager
def using(module):
    """Let all of mmcv.ops use a module of operators."""
    ops = importlib.import_module('mmcv.ops')
    with pytest.MonkeyPatch.context() as patch:
        for name, file in [*sys.modules.items()]:
            if name.startswith('mmcv.ops.') and hasattr(file, 'ext_module'):
                patch.setattr(file, 'ext_module', module)
        yield ops


def run(name, module, *inputs):
    """A function of mmcv.ops over a module of operators."""
    with using(module) as ops:
        return differentiate(attrgetter(name)(ops), *inputs)


def compare(name, theirs, *inputs):
    """Assert that our results are those of another module."""
    found, expected = (run(name, m, *inputs) for m in (ext, theirs))
    torch.testing.assert_close(found, expected, equal_nan=True, **CLOSE)


def check(name, formula, *inputs):
    """Assert that our results are those of a formula."""
    expected = differentiate(formula, *inputs)
    torch.testing.assert_close(run(name, ext, *inputs), expected, **CLOSE)


KINDS = 'plain', 'integer', 'huge', 'degenerate'


def make_boxes(rng, count, kind):
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


@st.composite
def detections(draw):
    """Boxes, scores and a threshold."""

    def pick(*values):
        return draw(st.sampled_from(values))

    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = pick(0, 1, 2, 7, 40, 300)
    boxes = make_boxes(rng, count, pick(*KINDS))
    scores = rng.random(count, dtype=np.float32)
    kind = pick('plain', 'ties', 'nan')
    if kind == 'ties':
        scores = np.round(scores * 3) / 3
    elif kind == 'nan':
        scores[::5] = np.nan
    threshold = pick(0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 1.0)
    return boxes, torch.from_numpy(scores), threshold


many = settings(deadline=None, max_examples=300)


@many
@given(found=detections(), offset=st.sampled_from([0, 1]))
def test_nms(theirs, found, offset):
    boxes, scores, threshold = found
    # In huge boxes, 1 is less than the distance of numbers.
    offset *= bool((boxes.abs() < 1e3).all())
    expected = theirs.nms(boxes, scores, threshold, offset)
    assert torch.equal(ext.nms(boxes, scores, threshold, offset), expected)
    spread = boxes.repeat(1, 2)[:, :4].mT.contiguous().mT
    assert torch.equal(ext.nms(spread, scores, threshold, offset), expected)


@many
@given(
    found=detections(),
    options=st.fixed_dictionaries(
        dict(
            offset=st.sampled_from([0, 1]),
            method=st.sampled_from([0, 1, 2]),
            min_score=st.sampled_from([0.0, 0.001, 0.2]),
        )
    ),
)
def test_softnms(theirs, found, options):
    boxes, scores, threshold = found
    options.update(iou_threshold=threshold, sigma=0.5)
    outs = []
    for module in (theirs, ext):
        dets = torch.zeros(len(boxes), 5)
        kept = module.softnms(boxes, scores.clone(), dets, **options)
        outs.append([kept, dets[: len(kept)]])
    torch.testing.assert_close(*outs, equal_nan=True, **CLOSE)


@settings(deadline=None)
@given(found=detections())
def test_nms_match(theirs, found):
    boxes, scores, threshold = found
    dets = torch.cat([boxes, scores[:, None]], 1)
    expected = theirs.nms_match(dets, threshold) if len(boxes) else []
    assert ext.nms_match(dets, threshold) == expected


def make_regions(seed, count=12):
    rng = np.random.default_rng(seed)
    kind = 'integer' if seed % 3 == 0 else 'plain'
    boxes = make_boxes(rng, count, kind)
    boxes[::7, 2:] = boxes[::7, :2]  # without an area
    images = torch.from_numpy(rng.integers(0, 2, (count, 1)))
    return torch.cat([images.float(), boxes], 1)


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('count', [0, 1, 12])
def test_roi_align(theirs, count, ratio, mode, aligned):
    for seed in range(4):
        torch.manual_seed(seed)
        regions = make_regions(seed, count)
        maps = torch.randn(2, 3, 9, 14)
        sizes = (5, 3), 0.25, ratio, mode, aligned
        spread = maps.mT.contiguous().mT.contiguous()
        compare('roi_align', theirs, maps, regions, *sizes)
        compare('roi_align', theirs, spread, regions, *sizes)
        wide = maps.double(), regions.double()
        compare('roi_align', theirs, *wide, *sizes)


@pytest.mark.parametrize('zero', [False, True])
@pytest.mark.parametrize('seed', range(4))
def test_deformable_convolutions(theirs, seed, zero):
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
    v2 = 'modulated_deform_conv2d'
    for dtype in (torch.float32, torch.float64):
        x, offset, mask, weight = (
            y.to(dtype) for y in (x, offset, mask, weight)
        )
        bias = torch.randn(6, dtype=dtype)
        compare('deform_conv2d', theirs, x, offset, weight, *sizes, *ends)
        compare(v2, theirs, x, offset, mask, weight, bias, *sizes, *ends)
        compare(v2, theirs, x, offset, mask, weight, None, *sizes, *ends)


@pytest.mark.parametrize('kind', [0, 1])
@pytest.mark.parametrize('size', [(3, 5), (9, 7)])
def test_psamask(theirs, size, kind):
    x = torch.randn(2, size[0] * size[1], 5, 4)
    compare('psa_mask.psa_mask', theirs, x, kind, size)


# What follows needs no compiled operators. The first are those that mmcv
# compiles for GPUs alone.


def sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction):
    positive = F.one_hot(target, 5)[:, :4] > 0
    right = torch.where(positive, x, -x).double()
    balance = torch.where(positive, alpha, 1 - alpha)
    loss = -balance * (-right).sigmoid() ** gamma * F.logsigmoid(right)
    if weight is not None:
        loss = loss * F.pad(weight.detach(), (0, 1), value=1)[target][:, None]
    return loss.to(x)


def softmax_focal_loss(x, target, gamma, alpha, weight, reduction):
    p = x.double().softmax(1).gather(1, target[:, None])[:, 0]
    loss = -alpha * (1 - p) ** gamma * p.log()
    if weight is not None:
        loss = loss * weight.detach()[target]
    return loss.sum().to(x)


@pytest.mark.parametrize('weight', [None, torch.tensor([0.2, 0.9, 0.5, 0.1])])
def test_focal_losses(weight):
    x, options = torch.randn(50, 4) * 3, (1.5, 0.3, weight)
    large = torch.cat([x, torch.tensor([[-99.0, 99, 0, 1]])])
    inputs = large, torch.randint(5, (51,)), *options, 'none'
    check('sigmoid_focal_loss', sigmoid_focal_loss, *inputs)
    inputs = x, torch.randint(4, (50,)), *options, 'sum'
    check('softmax_focal_loss', softmax_focal_loss, *inputs)


def at(plane, *place):
    """The value of a map between pixels, as mmcv defines it."""
    sides = list(zip(place, plane.shape, strict=True))
    if not all(-1 <= point <= side for point, side in sides):
        return plane.sum() * 0
    rows, columns = (
        torch.arange(side).to(plane) - min(max(point, 0), side - 1)
        for point, side in sides
    )
    rows, columns = ((1 - x.abs()).clamp(min=0) for x in (rows, columns))
    return rows @ plane @ columns


def roi_align(maps, regions, size, scale, ratio, mode, aligned):
    out = maps.new_zeros(len(regions), maps.shape[1], *size)
    for number, (image, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = (value * scale - 0.5 * aligned for value in box)
        sides = y2 - y1, x2 - x1
        if not aligned:
            sides = tuple(max(side, 1.0) for side in sides)
        bins = [side / n for side, n in zip(sides, size, strict=True)]
        grid = [ratio or math.ceil(side) for side in bins]
        for channel, row, column in np.ndindex(*out.shape[1:]):
            values = [
                at(
                    maps[int(image), channel],
                    y1 + (row + (i + 0.5) / grid[0]) * bins[0],
                    x1 + (column + (j + 0.5) / grid[1]) * bins[1],
                )
                for i, j in np.ndindex(*grid)
            ]
            if values:
                best = max(values) if mode == 'max' else sum(values)
                best = best if mode == 'max' else best / len(values)
                out[number, channel, row, column] = best
            elif mode == 'max':
                out[number] = -10000
    return out


def find_bins(first, last, scale, count, length):
    """The pixels of each output, along one side."""
    edges = [
        (last + 1 - first) * scale / count * n + first * scale
        for n in range(count + 1)
    ]
    return [
        slice(*np.clip([math.floor(low), math.ceil(high)], 0, length).tolist())
        for low, high in pairwise(edges)
    ]


def roi_pool(maps, regions, size, scale):
    out = maps.new_zeros(len(regions), maps.shape[1], *size)
    for number, (image, x1, y1, x2, y2) in enumerate(regions.tolist()):
        rows = find_bins(y1, y2, scale, size[0], maps.shape[2])
        columns = find_bins(x1, x2, scale, size[1], maps.shape[3])
        for i, j in np.ndindex(*size):
            part = maps[int(image)][:, rows[i], columns[j]].flatten(1)
            if part.shape[1]:
                out[number, :, i, j] = part.max(1)[0]
    return out


@pytest.mark.parametrize('seed', range(3))
def test_regions(seed):
    torch.manual_seed(seed)
    maps, regions = torch.randn(2, 2, 7, 9).double(), make_regions(seed)
    inputs = maps, regions.double(), (3, 2), 0.25
    check('roi_pool', roi_pool, *inputs)
    for options in product((0, 2), ('avg', 'max'), (False, True)):
        check('roi_align', roi_align, *inputs, *options)


def carafe(features, masks, kernel_size, groups, scale):
    out = features.new_zeros(2, 4, 6, 10)
    padded = F.pad(features, (1, 1, 1, 1))
    for c, i, j in np.ndindex(*out.shape[1:]):
        top, left, first = i // 2, j // 2, c // 2 * 9
        part = padded[:, c, top : top + 3, left : left + 3].flatten(1)
        weights = masks[:, first : first + 9, i, j]
        out[:, c, i, j] = (part * weights).sum(1)
    return out


def test_carafe():
    features = torch.randn(2, 4, 3, 5).double()
    masks = torch.rand(2, 2 * 9, 6, 10).double()
    check('carafe', carafe, features, masks, 3, 2, 2)
    naive = features.new_zeros(2, 4, 6, 10)
    ext.carafe_naive_forward(features, masks, naive, 3, 2, 2)
    torch.testing.assert_close(naive, carafe(features, masks, 3, 2, 2))


def masked_conv(x, mask, weight, bias, padding):
    out = F.conv2d(x, weight, bias, padding=padding)
    kept = F.pad(mask, (0, 2, 0, 2))[:, : out.shape[2], : out.shape[3]]
    return (out * kept).detach()  # mmcv has no gradients


@pytest.mark.parametrize('padding', [0, 1, 2])
def test_masked_convolution(padding):
    mask = torch.zeros(1, 7, 6)
    mask[:, : 5 + 2 * padding, : 4 + 2 * padding] = 1
    mask[:, ::2, ::3] = 0
    check(
        'masked_conv2d',
        masked_conv,
        *(torch.randn(1, 3, 7, 6), mask),
        *(torch.randn(4, 3, 3, 3), torch.randn(4), padding),
    )


def test_multi_scale_attention():
    ops = importlib.import_module('mmcv.ops.multi_scale_deform_attn')

    def formula(value, shapes, starts, places, weights, step):
        return ops.multi_scale_deformable_attn_pytorch(
            value, shapes, places, weights
        )

    check(
        'multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply',
        *(formula, torch.randn(2, 26, 2, 4), torch.tensor([[4, 5], [2, 3]])),
        *(torch.tensor([0, 20]), torch.rand(2, 7, 2, 2, 3, 2) * 1.4 - 0.2),
        *(torch.rand(2, 7, 2, 2, 3), 64),
    )


def make_cases():
    """Function of mmcv.ops -> its inputs."""
    maps, regions = torch.randn(2, 3, 9, 14), make_regions(1).round()
    scores, target = torch.randn(50, 4), torch.randint(4, (50,))
    focal = scores, target, 2.0, 0.25, torch.rand(4), 'sum'
    x, weight = torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3)
    # Half a pixel from the kinks, which rounding would cross.
    offset = torch.randint(-2, 3, (2, 18, 9, 8)) + 0.5
    mask, bias = torch.rand(2, 9, 9, 8), torch.randn(6)
    features, weights = torch.randn(2, 4, 3, 5), torch.rand(2, 18, 6, 10)
    align = maps, regions, (5, 3), 0.25, 2
    v2 = 'modulated_deform_conv2d'
    return {
        'roi_align': (*align, 'avg'),
        'roi_align, max': (*align, 'max'),
        'roi_pool': (maps, regions, (5, 3), 0.25),
        'sigmoid_focal_loss': focal,
        'softmax_focal_loss': focal,
        'deform_conv2d': (x, offset, weight, 1, 1),
        v2: (x, offset, mask, weight, bias, 1, 1),
        'carafe': (features, weights, 3, 2, 2),
        'psa_mask.psa_mask': (torch.randn(2, 15, 5, 4), 0, (3, 5)),
    }


CASES = make_cases()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('case', CASES)
def test_dtypes(case, dtype):
    """Half precision is as near to float32 as the dtype allows."""
    name = case.split(',')[0]
    halves = change(CASES[case], lambda x: x.to(dtype))
    same = change(halves, torch.Tensor.float)
    expected = run(name, ext, *same)
    found = run(name, ext, *halves)
    # That of an older torch has no float16 on a CPU.
    with torch.autocast('cpu', dtype if TORCH > (2, 2) else torch.bfloat16):
        mixed = run(name, ext, *same)
    eps = torch.finfo(dtype).eps
    for half, cast, full in zip(found, mixed, expected, strict=True):
        assert half.dtype == dtype
        near = dict(atol=8 * eps * full.abs().max().item(), rtol=0)
        torch.testing.assert_close(half.float(), full, **near)
        # Autocast rounds nothing here, since mmcv's kernels do not.
        torch.testing.assert_close(cast, full)


# The others select regions or pixels by their values.
SELECTING = (
    'roi_align, max',
    'roi_pool',
    'psa_mask.psa_mask',
)


@pytest.mark.skipif(
    TORCH < (2, 8), reason='an older torch follows fewer functions'
)
@pytest.mark.parametrize('name', sorted(CASES.keys() - {*SELECTING}))
def test_compiles_without_graph_breaks(name):
    expected = run(name, ext, *CASES[name])
    with using(ext) as ops:
        graph = torch.compile(
            getattr(ops, name), backend='aot_eager', fullgraph=True
        )
        found = differentiate(graph, *CASES[name])
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


def train_and_predict(task):
    """The losses of two steps, and what is found then."""
    cfg = load_model_config(DEMOS[task])
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
        losses.append(model.train_step(deepcopy(batch), wrapper))
    # A head without training finds too little.
    for name, weight in model.named_parameters():
        if name.endswith(('retina_cls.weight', 'fc_cls.weight')):
            nn.init.normal_(weight)
    with torch.no_grad():
        found = model.eval().test_step(batch)[0].pred_instances[:20]
    return losses, (found.bboxes, found.scores, found.labels)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['Object Detection', 'Instance Segmentation'])
def test_training_and_prediction_are_those_of_mmcv(task, theirs):
    outs = []
    for module in (ext, theirs):
        with using(module):
            outs.append(train_and_predict(task))
    (losses, found), (other_losses, expected) = outs
    assert len(found[0]) > 0
    torch.testing.assert_close(losses, other_losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
