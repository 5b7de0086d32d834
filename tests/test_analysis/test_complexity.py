import re

import pytest
import torch
from helpers import TOOLS, call_tool
from mmcv.cnn.bricks import DropPath
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS

from mmhatnet.analysis.complexity import build_on_meta, measure_complexity
from mmhatnet.apis.zoo import load_backbone_config, load_model_config
from mmhatnet.models.hatnet import HMHSA, MHSA

NORM = dict(type='GN', num_groups=1)
CLASSIFIER = 'hatnet-tiny_8xb128_in1k'
SWIN = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'


def test_equations_5_and_15():
    """They leave out the projection of the output."""
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


@pytest.mark.parametrize(
    'source',
    [
        CLASSIFIER,
        'mmpretrain::resnet/resnet18_8xb32_in1k.py',
        SWIN,
        'mmdet::pvt/retinanet_pvtv2-b1_fpn_1x_coco.py',
        'mmseg::twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py',
    ],
)
def test_against_another_counter(source):
    """Group, layer and batch norms, einsum and torch's attention.

    mmengine counts explicit products, but no fused attention.
    """
    if '::' in source:
        pytest.importorskip(source.partition('::')[0])
    backbone = load_backbone_config(source)
    backbone.init_cfg = None
    if source == CLASSIFIER:
        backbone.fast = False
    result = measure_complexity(Config(dict(model=backbone)), (224, 224))
    model = MODELS.build(backbone)
    model.eval()
    other = FlopAnalyzer(model, (torch.rand(1, 3, 224, 224),))
    other = other.unsupported_ops_warnings(False).by_operator()
    kinds = 'layer_norm', 'batch_norm', 'group_norm'
    norms = sum(other[kind] for kind in kinds)
    assert result.norms == norms > 0
    assert result.products == other['matmul'] + other['bmm']
    assert result.operations == sum(other.values()) - norms
    assert result.params == sum(x.numel() for x in model.parameters())


def test_two_stages_do_not_depend_on_weights():
    """The number of proposals is given, not predicted."""
    cfg = load_model_config('mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco')
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


def test_panoptic_fpn():
    """Its branch for 'stuff' counts."""
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    base = 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
    cfg = load_model_config(base)
    whole = measure_complexity(cfg, (64, 64)).operations
    cfg.model.semantic_head.num_stuff_classes -= 1
    fewer = measure_complexity(cfg, (64, 64)).operations
    assert whole - fewer == 128 * 16 * 16


@pytest.mark.parametrize('shape', [(96, 64), (100, 75)])
def test_fast_form_counts_the_same(shape):
    """The count is the one of the equations, also with partial windows."""
    cfg = Config(dict(model=load_backbone_config(CLASSIFIER)))
    cfg.model.in_channels = 13
    before = cfg.to_dict()
    expected = measure_complexity(cfg, shape)
    assert cfg.to_dict() == before
    for fast in (True, False):
        cfg.model.fast = fast
        assert measure_complexity(cfg, shape) == expected


@pytest.mark.parametrize('source', [CLASSIFIER, SWIN])
def test_build_on_meta(source):
    """Parameters have no values; numbers of the constructor are right."""
    pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    backbone = load_backbone_config(source)
    backbone.drop_path_rate = 0.25
    model = build_on_meta(Config(dict(model=backbone)))
    assert not model.training
    tensors = [*model.parameters(), *model.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    rates = [
        module.drop_prob
        for module in model.modules()
        if isinstance(module, DropPath)
    ]
    assert 0 in rates
    assert max(rates) == pytest.approx(0.25)


def test_tool():
    output = call_tool(
        TOOLS / 'analysis_tools' / 'get_flops.py',
        *(CLASSIFIER, '--shape', 96, 64),
        *('--cfg-options', 'model.backbone.ds_ratios=4,2,1'),
    )
    cfg = load_model_config(CLASSIFIER)
    cfg.model.backbone.ds_ratios = (4, 2, 1)
    expected = measure_complexity(cfg, (96, 64))
    assert 'Input:       96x64' in output
    found = re.search(r'Operations: +([\d.]+) G', output)[1]
    assert found == f'{expected.operations / 1e9:.2f}'


@pytest.mark.parametrize(
    'source',
    [
        'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
        'mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py',
    ],
)
def test_what_cannot_be_counted(source):
    with pytest.raises(ValueError, match='cannot be counted'):
        measure_complexity(load_model_config(source), (64, 64))
