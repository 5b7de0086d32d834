"""A block with the forms for a GPU, in the graphs of torch.compile."""

import pytest
import torch
from compile_kernels import record_graphs
from helpers import TORCH, needs_triton

from mmhatnet.models import cuda, fast, forms
from mmhatnet.models.hatnet import HMHSA, MLP, HATNetBlock

pytestmark = needs_triton


@pytest.mark.slow
@pytest.mark.skipif(TORCH < (2, 8), reason='dynamic sizes need torch 2.8')
@pytest.mark.parametrize('dynamic', [False, True])
def test_graphs_have_kernels(dynamic, monkeypatch):
    """One graph for all sizes; nothing is cut, masked or explicit in it."""
    for module in cuda, fast:
        monkeypatch.setattr(module, 'kernels_apply', lambda *_: True)
    for module in cuda, forms:
        monkeypatch.setattr(module, 'INTERPRETED', True)
    norm_cfg = dict(type='GN', num_groups=1)
    attn = HMHSA(32, 2, 4, 3, norm_cfg=norm_cfg)
    act_cfg = dict(type='SiLU')
    mlp = MLP(32, 2, 3, norm_cfg=norm_cfg, act_cfg=act_cfg)
    block = HATNetBlock(attn, mlp, 0.0, False)
    x = torch.randn(2, 32, 26, 19).to(memory_format=torch.channels_last)
    x.requires_grad_()
    graphs = record_graphs(block, monkeypatch, x, dynamic=dynamic)
    assert len(graphs) == 2
    forward, backward = graphs
    # Two for each of five norms, one for the windows, one for the MLP.
    assert forward['triton_kernel_wrapper_functional'] == 12
    assert backward['triton_kernel_wrapper_functional'] == 12
    names = ' '.join(forward)
    assert names.count('scaled_dot_product') == 1  # to the pooled map
    assert not any(
        name in names for name in ('softmax', 'group_norm', 'masked_fill')
    )
