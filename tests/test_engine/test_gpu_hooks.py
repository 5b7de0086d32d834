"""Hooks for a GPU, as configs name them."""

from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL_ARCH, assert_features_close, random_images
from mmengine.registry import HOOKS
from torch import nn

from mmhatnet.engine import gpu
from mmhatnet.models import HATNet


def run(name, model, **kwargs):
    hook = HOOKS.build(dict(type=f'mmhatnet.{name}', **kwargs))
    hook.before_train(SimpleNamespace(model=model))


def test_graphs(monkeypatch):
    """Of the backbone alone, wherever it is in the model."""
    found = []
    monkeypatch.setattr(gpu, 'graph_training', found.append)
    backbone = HATNet(SMALL_ARCH)
    run('CUDAGraphHook', nn.Sequential(nn.Sequential(backbone)))
    assert found == [backbone]


def test_compiled_blocks():
    model, x = HATNet(SMALL_ARCH), random_images()
    expected = model(x)
    torch.compiler.reset()
    run('CompileBlocksHook', nn.Sequential(model), backend='eager')
    parts = [part for stage in model.stages for part in stage[0].children()]
    assert any(part._compiled_call_impl for part in parts)
    assert_features_close(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['CUDAGraphHook', 'CompileBlocksHook'])
def test_models_without_hatnet(name):
    with pytest.raises(ValueError, match='no HATNet'):
        run(name, nn.Linear(1, 1))
