import re
import subprocess
import sys

import pytest
import torch
from helpers import CLS_GRIDS, ROOT
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.config import read_config
from mmhatnet.models import HATNet
from mmhatnet.models.hatnet import HMHSA, MHSA
from mmhatnet.zoo import load_backbone_config

NORM = dict(type='GN', num_groups=1)
CLASSIFIER = ROOT / 'configs' / 'hatnet' / 'hatnet-tiny_8xb128_in1k.py'


def test_equations_5_and_15():
    """Of one attention; they leave out the projection of the output."""
    h, w, c, g1, g2 = 16, 24, 3, 8, 4
    projection = h * w * c**2

    def operations(attention, **kwargs):
        kwargs.update(embed_dims=c, num_heads=1, norm_cfg=NORM, fast=False)
        cfg = Config(dict(model=dict(type=attention, **kwargs)))
        return measure_complexity(cfg, (h, w)).operations

    mhsa = 3 * h * w * c**2 + 2 * h**2 * w**2 * c
    assert operations(MHSA) == mhsa + projection
    h_mhsa = h * w * c * (4 * c + 2 * g1**2)
    h_mhsa += 2 * h * w // g2**2 * c * (c + h * w)
    found = operations(HMHSA, grid_size=g1, ds_ratio=g2)
    assert found == h_mhsa + projection


def products(model, height, width):
    """Of attention: Eqs. (5) and (15) of the paper without projections."""
    total = 0
    arch = model.arch_settings
    for stage, (dims, depth) in enumerate(
        zip(arch['embed_dims'], arch['depths'], strict=True)
    ):
        h, w = height >> (stage + 2), width >> (stage + 2)
        if stage == 3:
            block = 2 * (h * w) ** 2 * dims
        else:
            g1, g2 = model.grid_sizes[stage], model.ds_ratios[stage]
            assert h % g1 == w % g1 == h % g2 == w % g2 == 0
            block = 2 * h * w * dims * (g1**2 + h * w // g2**2)
        total += depth * block
    return total


@pytest.mark.parametrize(
    ('arch', 'shape', 'grids'),
    [
        ('tiny', (224, 224), CLS_GRIDS),
        (
            'small',
            (256, 512),
            dict(grid_sizes=(8, 8, 8), ds_ratios=(16, 8, 4)),
        ),
        ('small', (256, 256), dict(grid_sizes=(4, 4, 2), ds_ratios=(8, 4, 2))),
    ],
)
def test_products_in_closed_form(arch, shape, grids):
    cfg = Config(dict(model=dict(type='mmhatnet.HATNet', arch=arch, **grids)))
    result = measure_complexity(cfg, shape)
    assert result.products == products(HATNet(arch, **grids), *shape)


@pytest.mark.parametrize('fast', [True, False])
def test_against_another_counter(fast):
    """mmengine's, which knows no fused attention but explicit products."""
    cfg = read_config(CLASSIFIER)
    cfg.model.backbone.fast = fast
    result = measure_complexity(cfg, (224, 224))
    model = HATNet('tiny', fast=False, **CLS_GRIDS).eval()
    other = FlopAnalyzer(model, (torch.rand(1, 3, 224, 224),))
    other = other.unsupported_ops_warnings(False).by_operator()
    head = 384 * 1000
    assert result.operations - head == other['conv'] + other['matmul']
    assert result.products == other['matmul']
    assert result.norms == other['group_norm']
    params = sum(parameter.numel() for parameter in model.parameters())
    assert result.params == params + head + 1000


@pytest.mark.parametrize(
    'source',
    [
        'mmpretrain::resnet/resnet18_8xb32_in1k.py',
        'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        'mmdet::pvt/retinanet_pvtv2-b1_fpn_1x_coco.py',
        'mmseg::twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py',
    ],
)
def test_other_backbones_against_another_counter(source):
    """A batch norm, einsum, torch's multi-head attention, all explicit."""
    library = source.partition('::')[0]
    pytest.importorskip(library, reason=f'{library} is not installed')
    backbone = load_backbone_config(source)
    backbone.init_cfg = None
    result = measure_complexity(Config(dict(model=backbone)), (224, 224))
    model = MODELS.build(backbone)
    model.eval()
    other = FlopAnalyzer(model, (torch.rand(1, 3, 224, 224),))
    other = other.unsupported_ops_warnings(False).by_operator()
    norms = other['layer_norm'] + other['batch_norm']
    assert result.norms == norms > 0
    assert result.products == other['matmul'] + other['bmm']
    assert result.operations == sum(other.values()) - norms


def test_two_stages_do_not_depend_on_weights():
    """Proposals by number, where a forward pass has what the weights give."""
    cfg = read_config(
        ROOT / 'configs/mask_rcnn/mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco.py'
    )
    result = measure_complexity(cfg, (256, 256))
    assert result == measure_complexity(cfg, (256, 256))
    cfg.model.test_cfg.rpn.max_per_img = 500
    fewer = measure_complexity(cfg, (256, 256))
    # The two shared layers and the two outputs of the box head.
    per_proposal = 256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 80 * 4)
    assert result.operations - fewer.operations == 500 * per_proposal
    cfg.model.test_cfg.rcnn.max_per_img = 50
    masks = fewer.operations - measure_complexity(cfg, (256, 256)).operations
    convs = 4 * 14**2 * 256 * 256 * 9
    upsampling, output = 14**2 * 256 * 256 * 4, 28**2 * 256 * 80
    assert masks == 50 * (convs + upsampling + output)


def test_config_stays_as_it_is():
    cfg = read_config(CLASSIFIER)
    before = cfg.to_dict()
    measure_complexity(cfg, (64, 64))
    assert cfg.to_dict() == before


def test_tool():
    tool = ROOT / 'tools' / 'analysis_tools' / 'get_flops.py'
    result = subprocess.run(
        [
            *(sys.executable, tool, 'hatnet-tiny_8xb128_in1k'),
            *('--shape', '96', '64'),
            *('--cfg-options', 'model.backbone.ds_ratios=4,2,1'),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    cfg = read_config(CLASSIFIER)
    cfg.model.backbone.ds_ratios = (4, 2, 1)
    expected = measure_complexity(cfg, (96, 64))
    assert 'Input:       96x64' in result.stdout
    found = re.search(r'Operations: +([\d.]+) G', result.stdout)[1]
    assert found == f'{expected.operations / 1e9:.2f}'
