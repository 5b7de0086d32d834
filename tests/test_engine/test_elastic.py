"""Training with G1, G2 and image sizes that change."""

import numpy as np
import pytest
import torch
from helpers import CLS_GRIDS, SMALL_ARCH, random_images
from mmengine.registry import HOOKS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmhatnet.engine.elastic import ElasticGridsHook
from mmhatnet.models import HATNet
from mmhatnet.models.compiling import has_static_value

G1 = [(2, 2, 2), (4, 4, 4), (8, 8, 8)]
G2 = [(4, 2, 1), (8, 4, 2)]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.data_preprocessor = nn.Module()
        self.data_preprocessor.forward = lambda data: data
        self.backbone = HATNet(SMALL_ARCH, **CLS_GRIDS)


class Runner:
    def __init__(self, model):
        self.model, self.iter, self.hooks = model, 0, []


def grids(model):
    attn = model.backbone.stages[0][0].attn
    assert attn.grid_size == model.backbone.grid_sizes[0]
    assert attn.ds_ratio == model.backbone.ds_ratios[0]
    return model.backbone.grid_sizes, model.backbone.ds_ratios


def draws(first, last, **kwargs):
    """The settings and scales of iterations."""
    runner = Runner(Model())
    hook = HOOKS.build(dict(type='mmhatnet.ElasticGridsHook', **kwargs))
    hook.before_train(runner)
    found = []
    for runner.iter in range(first, last):
        hook.before_train_iter(runner, 0)
        found.append((*grids(runner.model), hook.scale))
        hook.after_train_iter(runner, 0)
        assert grids(runner.model) == tuple(CLS_GRIDS.values())
    return found


def test_draws():
    """All settings come, the same after a resume and in every process."""
    options = dict(grid_sizes=G1, ds_ratios=G2, scales=[0.5, 1, 1.5])
    found = draws(0, 300, **options)
    assert len(set(found)) == len(G1) * len(G2) * 3
    torch.manual_seed(7)
    assert draws(200, 300, **options) == found[200:]
    assert draws(0, 300, **options, seed=1) != found


def preprocess(samples):
    model = Model()
    hook = ElasticGridsHook(scales=[1.5])
    hook.before_train(Runner(model))
    hook.before_train_iter(Runner(model))
    images = random_images(64, 48)
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples))
    hook.after_train(Runner(model))
    after = model.data_preprocessor(dict(inputs=images))
    assert after['inputs'] is images
    return data


def test_label_maps_are_resized():
    labels = torch.from_numpy(
        np.kron(np.arange(12).reshape(4, 3), np.ones((16, 16)))
    )
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=labels[None].long()),
        gt_edge_map=PixelData(data=labels[None].byte()),
    )
    data = preprocess([sample])
    assert data['inputs'].shape == (2, 3, 96, 72)
    for found, dtype in (
        (sample.gt_sem_seg.data, torch.int64),
        (sample.gt_edge_map.data, torch.uint8),
    ):
        assert found.shape == (1, 96, 72)
        assert torch.equal(found.unique(), labels.unique().to(dtype))
    assert sample.img_shape == sample.pad_shape == (96, 72)


def test_boxes_are_refused():
    sample = SegDataSample()
    sample.set_field(0, 'gt_instances')
    with pytest.raises(ValueError, match='RandomChoiceResize'):
        preprocess([sample])


@pytest.mark.parametrize(
    ('model', 'options', 'message'),
    [
        (nn.Conv2d(1, 1, 1), {}, 'models with one HATNet; this one has 0'),
        (Model(), dict(grid_sizes=[8, 7]), 'grid_sizes must be a list'),
        (Model(), dict(grid_sizes=[(8, 7)]), 'G1'),
        (Model(), dict(ds_ratios=[(8, 4, 0)]), 'G2'),
        (Model(), dict(scales=[]), 'positive numbers'),
        (Model(), dict(scales=[float('nan')]), 'positive numbers'),
        (Model(), dict(scales=['1']), 'scales must be a list'),
        (Model(), dict(scales=1.5), 'scales must be a list'),
        (Model(), dict(grid_sizes=8), 'grid_sizes must be a list'),
        (Model(), dict(ds_ratios='auto'), 'ds_ratios must be a list'),
    ],
)
def test_errors(model, options, message):
    with pytest.raises(ValueError, match=message):
        ElasticGridsHook(**options).before_train(Runner(model))


class TestAutoG2:
    @pytest.mark.parametrize(
        ('size', 'ds_ratios'),
        [
            ((224, 224), (8, 4, 2)),  # the paper's
            ((64, 64), (2, 1, 1)),
            ((300, 500), (14, 7, 4)),
        ],
    )
    def test_as_many_cells(self, size, ds_ratios):
        model = HATNet(SMALL_ARCH, ds_ratios='auto')
        x = random_images(*size)
        found = model(x)
        model.set_grids(ds_ratios=ds_ratios)
        for a, b in zip(found, model(x), strict=True):
            assert torch.equal(a, b)
        model.set_grids(ds_ratios='auto')
        assert model.ds_ratios == ('auto',) * 3

    @pytest.mark.skipif(has_static_value is None, reason='needs torch 2.8')
    @pytest.mark.slow
    def test_one_graph_for_all_sizes(self):
        arch = dict(SMALL_ARCH, depths=(1, 1, 1, 1))
        model = HATNet(arch, ds_ratios=['auto'] * 3, out_indices=0).eval()
        compiled = torch.compile(
            model, backend='aot_eager', fullgraph=True, dynamic=True
        )
        with torch.no_grad():
            for size in (96, 128), (224, 224), (130, 310):
                x = random_images(*size)
                for a, b in zip(compiled(x), model(x), strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_g1_has_none(self):
        with pytest.raises(ValueError, match='G1'):
            HATNet(SMALL_ARCH, grid_sizes='auto')
