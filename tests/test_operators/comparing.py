"""Compare our operators with others."""

import importlib
import sys
from contextlib import contextmanager
from operator import attrgetter

import numpy as np
import pytest
import torch

from mmhatnet.operators import ext

CLOSE = dict(rtol=1e-5, atol=1e-5)


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


def make_regions(seed, count=12):
    rng = np.random.default_rng(seed)
    kind = 'integer' if seed % 3 == 0 else 'plain'
    boxes = make_boxes(rng, count, kind)
    boxes[::7, 2:] = boxes[::7, :2]  # without an area
    images = torch.from_numpy(rng.integers(0, 2, (count, 1)))
    return torch.cat([images.float(), boxes], 1)
