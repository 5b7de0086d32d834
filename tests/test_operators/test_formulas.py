"""Our operators are those of formulas, in any dtype, and can be compiled."""

import importlib
import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from comparing import change, check, differentiate, make_regions, run, using
from helpers import TORCH

from mmhatnet.operators import ext

# Of these, mmcv compiles the first two for GPUs alone.


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


def roi_align(maps, regions, size, scale, ratio, mode, aligned):
    return torchvision.ops.roi_align(
        maps, regions, size, scale, ratio, aligned
    )


@pytest.mark.parametrize('seed', range(3))
def test_regions(seed):
    torch.manual_seed(seed)
    maps, regions = torch.randn(2, 2, 7, 9).double(), make_regions(seed)
    inputs = maps, regions.double(), (3, 2), 0.25
    check('roi_pool', roi_pool, *inputs)
    for ratio, aligned in product((0, 2), (False, True)):
        check('roi_align', roi_align, *inputs, ratio, 'avg', aligned)


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
    v2 = 'modulated_deform_conv2d'
    return {
        'roi_align': (maps, regions, (5, 3), 0.25, 2, 'avg'),
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
    halves = change(CASES[case], lambda x: x.to(dtype))
    same = change(halves, torch.Tensor.float)
    expected = run(case, ext, *same)
    found = run(case, ext, *halves)
    # That of an older torch has no float16 on a CPU.
    with torch.autocast('cpu', dtype if TORCH > (2, 2) else torch.bfloat16):
        mixed = run(case, ext, *same)
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
    'name', sorted(CASES.keys() - {'roi_pool', 'psa_mask.psa_mask'})
)
def test_compiles_without_graph_breaks(name):
    expected = run(name, ext, *CASES[name])
    with using(ext) as ops:
        graph = torch.compile(
            getattr(ops, name), backend='aot_eager', fullgraph=True
        )
        found = differentiate(graph, *CASES[name])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
