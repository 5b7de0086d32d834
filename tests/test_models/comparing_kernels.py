"""Kernels and their twins, in the same tests."""

from importlib import import_module

import pytest
import torch
from helpers import assert_features_close, assert_gradients_close, gradients

from mmhatnet.models import HATNet
from mmhatnet.models.kernels import select_kernels
from mmhatnet.models.kernels.choice import CHECKS, TOLERANCES


def differentiated(function, inputs, grad):
    """Result and gradients."""
    y = function(*inputs)
    return [y, *torch.autograd.grad(y, inputs, grad)]


def precise(inputs):
    return [x.detach().double().requires_grad_() for x in inputs]


def largest_errors(found, expected):
    """Relative to the largest value of each tensor."""
    return [
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(found, expected, strict=True)
    ]


def assert_check_passes(name, dtype=torch.float32):
    """The comparison that users make on their GPU."""
    import_module(f'mmhatnet.models.kernels.{name}')
    torch.manual_seed(0)
    error = CHECKS[name](torch.device('cpu'), dtype)
    assert 0 < error < TOLERANCES[dtype]


def assert_lean(function, inputs, limit=0):
    """It keeps nothing large but its inputs, and has no second derivative."""
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks
    with hooks(lambda x: kept.append(x) or x, lambda x: x):
        y = function(*inputs)
    large = [x.data_ptr() for x in kept if x.numel() > limit]
    assert large == [x.data_ptr() for x in inputs if x.numel() > limit]
    with pytest.raises(RuntimeError, match='fast=False'):
        torch.autograd.grad(y.sum(), inputs, create_graph=True)


def assert_same_model(name, arch, x, **kwargs):
    """Features and gradients with the kernels are those of the equations."""
    torch.manual_seed(0)
    model = HATNet(arch, **kwargs)
    plain = HATNet(arch, fast=False, **kwargs).double()
    plain.load_state_dict(model.state_dict())
    with select_kernels(name):
        found, slopes = model(x), gradients(model, x)
    expected = [y.float() for y in plain(x.double())]
    assert_features_close(found, expected, rtol=1e-4, atol=1e-4)
    reference = gradients(plain, x.double())
    reference = {name: g.float() for name, g in reference.items()}
    assert_gradients_close(slopes, reference)
