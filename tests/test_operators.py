"""Our operators are equal to those that mmcv compiles, and to formulas."""

import importlib
import json
import math
import sys
from itertools import pairwise, product
from operator import attrgetter

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import DEMOS, TORCH, run_tool
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhatnet import operators
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


@pytest.fixture
def run(monkeypatch):
    """Function that runs one of mmcv.ops over a module of operators."""

    def run(path, module, *inputs):
        file, name = path.split('.', 1)
        ops = importlib.import_module(f'mmcv.ops.{file}')
        monkeypatch.setattr(ops, 'ext_module', module)
        return differentiate(attrgetter(name)(ops), *inputs)

    return run


@pytest.fixture
def compare(run, theirs):
    """Function that asserts that both modules have the same results."""

    def compare(path, *inputs):
        found, expected = (run(path, m, *inputs) for m in (ext, theirs))
        torch.testing.assert_close(found, expected, equal_nan=True, **CLOSE)

    return compare


@pytest.fixture
def check(run):
    """Function that asserts that our results are those of a formula."""

    def check(path, formula, *inputs):
        found = run(path, ext, *inputs)
        expected = differentiate(formula, *inputs)
        torch.testing.assert_close(found, expected, **CLOSE)

    return check


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


@settings(deadline=None, max_examples=300)
@given(**boxes_and_scores, offset=st.sampled_from([0, 1]))
def test_nms(theirs, seed, count, boxes, scores, threshold, offset):
    if offset and boxes == 'huge':
        boxes = 'plain'  # 1 is less than the distance of numbers
    boxes, scores = draw(seed, count, boxes, scores)
    expected = theirs.nms(boxes, scores, threshold, offset)
    assert torch.equal(ext.nms(boxes, scores, threshold, offset), expected)
    spread = boxes.repeat(1, 2)[:, :4].mT.contiguous().mT
    assert torch.equal(ext.nms(spread, scores, threshold, offset), expected)


@settings(deadline=None, max_examples=300)
@given(
    **boxes_and_scores,
    offset=st.sampled_from([0, 1]),
    method=st.sampled_from([0, 1, 2]),
    lowest=st.sampled_from([0.0, 0.001, 0.2]),
)
def test_softnms(
    theirs, seed, count, boxes, scores, threshold, offset, method, lowest
):
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


@settings(deadline=None)
@given(**boxes_and_scores)
def test_nms_match(theirs, seed, count, boxes, scores, threshold):
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


@pytest.mark.parametrize('kind', [0, 1])
@pytest.mark.parametrize('size', [(3, 5), (9, 7)])
def test_psamask(compare, size, kind):
    x = torch.randn(2, size[0] * size[1], 5, 4)
    compare('psa_mask.psa_mask', x, kind, size)


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
def test_focal_losses(check, weight):
    x, options = torch.randn(50, 4) * 3, (1.5, 0.3, weight)
    large = torch.cat([x, torch.tensor([[-99.0, 99, 0, 1]])])
    inputs = large, torch.randint(5, (51,)), *options, 'none'
    check('focal_loss.sigmoid_focal_loss', sigmoid_focal_loss, *inputs)
    inputs = x, torch.randint(4, (50,)), *options, 'sum'
    check('focal_loss.softmax_focal_loss', softmax_focal_loss, *inputs)


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
def test_regions(check, seed):
    torch.manual_seed(seed)
    maps, regions = torch.randn(2, 2, 7, 9).double(), make_regions(seed)
    inputs = maps, regions.double(), (3, 2), 0.25
    check('roi_pool.roi_pool', roi_pool, *inputs)
    for options in product((0, 2), ('avg', 'max'), (False, True)):
        check('roi_align.roi_align', roi_align, *inputs, *options)


def carafe(features, masks, kernel_size, groups, scale):
    out = features.new_zeros(2, 4, 6, 10)
    padded = F.pad(features, (1, 1, 1, 1))
    for c, i, j in np.ndindex(*out.shape[1:]):
        top, left, first = i // 2, j // 2, c // 2 * 9
        part = padded[:, c, top : top + 3, left : left + 3].flatten(1)
        weights = masks[:, first : first + 9, i, j]
        out[:, c, i, j] = (part * weights).sum(1)
    return out


def test_carafe(check):
    features = torch.randn(2, 4, 3, 5).double()
    masks = torch.rand(2, 2 * 9, 6, 10).double()
    check('carafe.carafe', carafe, features, masks, 3, 2, 2)
    naive = features.new_zeros(2, 4, 6, 10)
    ext.carafe_naive_forward(features, masks, naive, 3, 2, 2)
    torch.testing.assert_close(naive, carafe(features, masks, 3, 2, 2))


def masked_conv(x, mask, weight, bias, padding):
    out = F.conv2d(x, weight, bias, padding=padding)
    kept = F.pad(mask, (0, 2, 0, 2))[:, : out.shape[2], : out.shape[3]]
    return (out * kept).detach()  # mmcv has no gradients


@pytest.mark.parametrize('padding', [0, 1, 2])
def test_masked_convolution(check, padding):
    mask = torch.zeros(1, 7, 6)
    mask[:, : 5 + 2 * padding, : 4 + 2 * padding] = 1
    mask[:, ::2, ::3] = 0
    check(
        'masked_conv.masked_conv2d',
        masked_conv,
        *(torch.randn(1, 3, 7, 6), mask),
        *(torch.randn(4, 3, 3, 3), torch.randn(4), padding),
    )


def test_multi_scale_attention(check):
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
    v2 = 'modulated_deform_conv.modulated_deform_conv2d'
    return {
        'roi_align.roi_align': (*align, 'avg'),
        'roi_align.roi_align, max': (*align, 'max'),
        'roi_pool.roi_pool': (maps, regions, (5, 3), 0.25),
        'focal_loss.sigmoid_focal_loss': focal,
        'focal_loss.softmax_focal_loss': focal,
        'deform_conv.deform_conv2d': (x, offset, weight, 1, 1),
        v2: (x, offset, mask, weight, bias, 1, 1),
        'carafe.carafe': (features, weights, 3, 2, 2),
        'psa_mask.psa_mask': (torch.randn(2, 15, 5, 4), 0, (3, 5)),
    }


CASES = make_cases()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('case', CASES)
def test_dtypes(run, case, dtype):
    """Half precision is as near to float32 as the dtype allows."""
    path = case.split(',')[0]
    halves = change(CASES[case], lambda x: x.to(dtype))
    same = change(halves, torch.Tensor.float)
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


# The others select regions or pixels by their values.
SELECTING = (
    'roi_align.roi_align, max',
    'roi_pool.roi_pool',
    'psa_mask.psa_mask',
)


@pytest.mark.skipif(
    TORCH < (2, 8), reason='an older torch follows fewer functions'
)
@pytest.mark.parametrize('path', sorted(CASES.keys() - {*SELECTING}))
def test_compiles_without_graph_breaks(run, path):
    expected = run(path, ext, *CASES[path])  # and leaves ext in its place
    mmcv_ops = importlib.import_module('mmcv.ops')
    function = getattr(mmcv_ops, path.split('.')[1])
    graph = torch.compile(function, backend='aot_eager', fullgraph=True)
    found = differentiate(graph, *CASES[path])
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


@pytest.mark.slow
@pytest.mark.parametrize('task', ['Object Detection', 'Instance Segmentation'])
def test_training_and_prediction_are_those_of_mmcv(task, theirs):
    code = TRAIN.format(name=DEMOS[task])
    found, expected = (
        json.loads(
            run_tool('-c', code, MMHATNET_OPERATORS=choice).splitlines()[-1]
        )
        for choice in operators.CHOICES
    )
    assert 'torchvision' in found[0]
    assert 'torchvision' not in expected[0]
    for losses, others in zip(found[1], expected[1], strict=True):
        assert losses == pytest.approx(others, rel=1e-5)
    assert len(found[2]) > 0
    for ours, others in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(ours, others, rtol=1e-4, atol=1e-4)
