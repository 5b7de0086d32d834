"""Our operators are equal to those that mmcv compiles."""

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from comparing import CLOSE, KINDS, compare, make_boxes, make_regions
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhatnet import operators
from mmhatnet.operators import ext


@pytest.fixture(scope='module')
def theirs():
    """The module that mmcv compiles."""
    if operators.describe_operators() != 'mmcv':
        pytest.skip('the installed mmcv has no compiled operators')
    return importlib.import_module(operators.NAME)


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


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('count', [0, 1, 12])
def test_roi_align(theirs, count, ratio, aligned):
    for seed in range(4):
        torch.manual_seed(seed)
        regions = make_regions(seed, count)
        maps = torch.randn(2, 3, 9, 14)
        sizes = (5, 3), 0.25, ratio, 'avg', aligned
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
