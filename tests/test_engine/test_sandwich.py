"""The costliest, the cheapest and a drawn setting on every batch."""

from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL_ARCH
from mmengine.config import Config

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.apis.zoo import get_model
from mmhatnet.datasets.random_batch import make_batch
from mmhatnet.engine.sandwich import SandwichGridsHook, attention_cost
from mmhatnet.models import HATNet

G2 = [(2, 1, 1), (4, 2, 1), (8, 4, 2), (16, 8, 4)]


def start(model, **kwargs):
    """The hook at the first iteration of a training."""
    hook = SandwichGridsHook(ds_ratios=G2, **kwargs)
    runner = SimpleNamespace(model=model, hooks=[hook], iter=0)
    hook.before_train(runner)
    hook.before_train_iter(runner)
    return hook


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    model = get_model('fpn_hatnet-tiny_2xb4-400_demo')
    # Each pass draws anew.
    model.decode_head.dropout = None
    return model.train()


def losses_of(model, batch):
    data = model.data_preprocessor(batch, True)
    return model.loss(data['inputs'], data['data_samples'])


@pytest.mark.parametrize('other', [(4, 2, 1), (16, 8, 4)])
def test_cost_is_what_changes(other):
    """The operations of two settings differ by the products of attention."""
    backbone = dict(
        type='mmhatnet.HATNet', arch=SMALL_ARCH, grid_sizes=(8, 8, 8)
    )
    settings = [(8, 4, 2), other]
    operations, costs = [], []
    for g2 in settings:
        cfg = Config(dict(model=dict(backbone, ds_ratios=g2)))
        operations.append(measure_complexity(cfg, (256, 256)).operations)
        hatnet = HATNet(SMALL_ARCH)
        costs.append(attention_cost(hatnet, (8, 8, 8), g2, (256, 256)))
    # kv is computed for each pooled token, too.
    kv = [
        sum(
            2 * c * c * n * (256 // 4 // 2**i // g2[i]) ** 2
            for i, (c, n) in enumerate(
                zip(hatnet.embed_dims[:3], hatnet.depths, strict=False)
            )
        )
        for g2 in settings
    ]
    change = operations[1] - operations[0]
    assert change == costs[1] - costs[0] + kv[1] - kv[0]


def test_three_pairs(model):
    """The ends always, and in time all that are between."""
    hook = start(model)
    found = set()
    for hook.share in (0.0, 0.05, 0.5, 1.0):
        pairs = hook.choose((256, 256))
        assert [pairs[0][1], pairs[1][1]] == [G2[0], G2[-1]]
        found |= {pair[1] for pair in pairs[2:]}
    assert found == {*G2[1:-1]}
    hook.after_train(None)


@pytest.mark.parametrize('distill', [0.0, 2.0])
def test_mean_loss(model, distill):
    """The mean over the pairs; features are pulled to the costliest's."""
    batch = make_batch('mmseg', (64, 96))
    single = {}
    for g2 in G2:
        model.backbone.set_grids(ds_ratios=g2)
        single[g2] = losses_of(model, batch)['decode.loss_ce']
    hook = start(model, distill=distill)
    pairs = hook.choose((64, 96))
    losses = losses_of(model, batch)
    expected = torch.stack([single[pair[1]] for pair in pairs]).mean()
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    assert ('loss_distill' in losses) == bool(distill)
    if distill:
        assert losses['loss_distill'] > 0
    sum(x for key, x in losses.items() if 'loss' in key).backward()
    hook.after_train_iter()
    hook.after_train(None)
    assert 'loss' not in vars(model)
    assert (model.backbone.grid_sizes, model.backbone.ds_ratios) == (
        hook.configured
    )


def test_detectors():
    """Lists of losses are averaged, too."""
    detector = get_model('retinanet_hatnet-micro_fpn_1xb8-100_demo')
    hook = start(detector.train())
    losses = losses_of(detector, make_batch('mmdet', classes=6))
    assert all(x.isfinite() for x in losses['loss_cls'])
    hook.after_train(None)


def test_errors(model):
    with pytest.raises(ValueError, match='distill is a weight, got -1'):
        SandwichGridsHook(distill=-1)
    runner = SimpleNamespace(model=model, hooks=[])
    with pytest.raises(ValueError, match='list at least two G1 or two G2'):
        SandwichGridsHook(ds_ratios=G2[:1]).before_train(runner)
    model = torch.nn.ModuleList([HATNet(SMALL_ARCH, with_cp=True)])
    runner = SimpleNamespace(model=model, hooks=[])
    with pytest.raises(ValueError, match='needs backbone.with_cp=False'):
        SandwichGridsHook(ds_ratios=G2).before_train(runner)
