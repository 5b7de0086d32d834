"""Every setting of every recipe is the one of its source.

The sources are the paper, PVT's and DeiT's released code, and for the models
beyond the paper the libraries' own recipes with Swin.
"""

import re
from ast import literal_eval
from fnmatch import fnmatch
from functools import cache
from math import cos, pi

import pytest
import torch
from helpers import CONFIGS, open_config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from torch import nn

from mmhatnet.engine.runner import adapt_to_cpu

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
LOAD = dict(type='LoadImageFromFile')
CROP = dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75)
SEG_TRAIN = [
    LOAD,
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(
        type='RandomResize',
        scale=(2048, 512),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    CROP,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
SEG = dict(
    train=SEG_TRAIN,
    test=[
        LOAD,
        dict(type='Resize', scale=(2048, 512), keep_ratio=True),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='PackSegInputs'),
    ],
    preprocessor=dict(RGB, bgr_to_rgb=True, size=(512, 512)),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    grids=((8, 8, 8), (16, 8, 4)),
    drop_path=0.1,
    wrapper='OptimWrapper',
    clip=None,
)
DET_RESIZE = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
BOXES = dict(type='LoadAnnotations', with_bbox=True)
MASKS = dict(BOXES, with_mask=True)
PACK_DET = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
)
DET = dict(
    train=[
        LOAD,
        BOXES,
        DET_RESIZE,
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ],
    test=[LOAD, DET_RESIZE, BOXES, PACK_DET],
    preprocessor=dict(RGB, bgr_to_rgb=True, pad_size_divisor=32),
    sampler=dict(type='DefaultSampler', shuffle=True),
    grids=((8, 8, 8), (16, 8, 4)),
    drop_path=0.1,
    wrapper='OptimWrapper',
    clip=None,
    lr=1e-4,
    # After 500 iterations, 8 epochs and 11 epochs of 1000 iterations.
    epoch=1000,
    rates={0: 1e-7, 500: 1e-4, 8000: 1e-5, 11000: 1e-6, 11999: 1e-6},
    decay=lambda name, kind: 1e-4,
    length=12,
)
INSTANCE = dict(
    DET,
    train=[LOAD, MASKS, *DET['train'][2:]],
    test=[LOAD, DET_RESIZE, MASKS, PACK_DET],
)


def cosine(lr, epoch, epochs):
    """DeiT's rate after 5 epochs of warm-up."""
    return 1e-5 + (lr - 1e-5) * (1 + cos(pi * (epoch - 5) / (epochs - 5))) / 2


def imagenet(lr, epochs, **others):
    return dict(
        train=[
            LOAD,
            dict(
                type='RandomResizedCrop',
                scale=224,
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(
                type='RandAugment',
                policies='timm_increasing',
                num_policies=2,
                total_level=10,
                magnitude_level=9,
                magnitude_std=0.5,
                hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
            ),
            dict(
                type='RandomErasing',
                erase_prob=0.25,
                mode='rand',
                min_area_ratio=0.02,
                max_area_ratio=1 / 3,
                fill_color=[103.53, 116.28, 123.675],
                fill_std=[57.375, 57.12, 58.395],
            ),
            dict(type='PackInputs'),
        ],
        test=[
            LOAD,
            dict(
                type='ResizeEdge',
                scale=256,
                edge='short',
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ],
        preprocessor=dict(RGB, to_rgb=True, num_classes=1000),
        sampler=dict(type='RepeatAugSampler', shuffle=True),
        mixing=[('Mixup', 0.8), ('CutMix', 1.0)],
        smoothing=0.1,
        grids=((8, 7, 7), (8, 4, 2)),
        drop_path=others.pop('drop_path', 0.1),
        wrapper='AmpOptimWrapper',
        clip=others.pop('clip', None),
        lr=lr,
        # In epochs of 10 iterations.
        rates={
            0: lr / 1000,
            50: lr,
            epochs * 5: cosine(lr, epochs // 2, epochs),
            epochs * 10 - 1: cosine(lr, epochs - 1, epochs),
        },
        epoch=10,
        decay=lambda name, kind: 0.05 if kind == 'weight' else 0,
        length=epochs,
    )


def poly(lr, iteration, power, begin=0, end=160000):
    """mmengine's rate, which is 0 in the last iteration."""
    return lr * (1 - (iteration - begin) / (end - begin - 1)) ** power


def mask2former_decay(name, kind):
    embeddings = ('query_embed', 'query_feat', 'level_embed')
    if kind == 'norm' or any(key in name for key in embeddings):
        return 0
    return 0.05


UPERNET = dict(
    SEG,
    drop_path=0.3,  # mmsegmentation's Swin-T
    lr=6e-5,
    rates={
        0: 6e-11,
        1500: 6e-5,
        80000: poly(6e-5, 80000, 1, 1500),
        159999: poly(6e-5, 159999, 1, 1500),
    },
    decay=lambda name, kind: 0 if kind == 'norm' else 0.01,
    length=160000,
)
FPN = dict(
    SEG,
    lr=1e-4,
    rates={
        0: 1e-4,
        40000: poly(1e-4, 40000, 0.9, end=80000),
        79999: poly(1e-4, 79999, 0.9, end=80000),
    },
    decay=lambda name, kind: 1e-4,
    length=80000,
)
MASK2FORMER = dict(
    SEG,
    train=[
        *SEG_TRAIN[:2],
        dict(
            type='RandomChoiceResize',
            scales=[512 * n // 10 for n in range(5, 21)],
            resize_type='ResizeShortestEdge',
            max_size=2048,
        ),
        *SEG_TRAIN[3:],
    ],
    drop_path=0.3,  # mmsegmentation's Swin-T
    clip=dict(max_norm=0.01, norm_type=2),
    lr=1e-4,
    backbone_lr=1e-5,
    rates={
        0: 1e-4,
        80000: poly(1e-4, 80000, 0.9),
        159999: poly(1e-4, 159999, 0.9),
    },
    decay=mask2former_decay,
    length=160000,
)
MUON = dict(optimizer='mmhatnet.Muon', lr=4e-3)
DEMO = dict(
    preprocessor=RGB,
    grids=((8, 8, 8), (8, 4, 2)),
    drop_path=0.0,
    wrapper='OptimWrapper',
    clip=dict(max_norm=5.0),
    lr=5e-4,
    # In epochs of 1000 iterations.
    epoch=1000,
    rates={0: 5e-6, 20: 5e-4, 3000: 2.55e-4, 5999: 1e-5},
    decay=lambda name, kind: 0.05,
    length=6,
    sampler=dict(type='DefaultSampler', shuffle=True),
    min_size=None,
)
DEMO_CLS = dict(
    DEMO,
    train=[LOAD, dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')],
    test=[LOAD, dict(type='PackInputs')],
    preprocessor=dict(RGB, to_rgb=True, num_classes=6),
    grids=((8, 7, 7), (8, 4, 2)),
    smoothing=0.1,
)


def muon_for(length):
    return dict(
        MUON,
        epoch=1,
        rates={
            0: 4e-5,
            20: 4e-3,
            length // 2: poly(4e-3, length // 2, 0.9, 20, length),
            length - 1: poly(4e-3, length - 1, 0.9, 20, length),
        },
        length=length,
    )


DEMO_FPN = dict(
    DEMO,
    train=[
        *SEG_TRAIN[:2],
        dict(type='RandomCrop', crop_size=(128, 128)),
        *SEG_TRAIN[4:5],
        *SEG_TRAIN[6:],
    ],
    test=[LOAD, *SEG_TRAIN[1:2], *SEG_TRAIN[6:]],
    preprocessor=dict(RGB, bgr_to_rgb=True, size=(128, 128)),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    **muon_for(400),
)
DEMO_DET = dict(
    DEMO,
    train=[LOAD, MASKS, *DET['train'][3:]],
    test=[LOAD, dict(type='Resize', scale_factor=1.0), MASKS, PACK_DET],
    preprocessor=dict(RGB, bgr_to_rgb=True, pad_size_divisor=32),
)
TREES = dict(
    DEMO,
    train=[
        LOAD,
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='RandomResize',
            scale=(400, 400),
            ratio_range=(0.8, 1.6),
            keep_ratio=True,
        ),
        dict(type='RandomCrop', crop_size=(400, 400)),
        dict(
            type='RandomFlip',
            prob=[0.25] * 3,
            direction=['horizontal', 'vertical', 'diagonal'],
        ),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackDetInputs'),
    ],
    test=[
        LOAD,
        dict(type='Resize', scale_factor=1.0),
        dict(type='LoadAnnotations', with_bbox=True),
        PACK_DET,
    ],
    preprocessor=dict(RGB, bgr_to_rgb=True, pad_size_divisor=32),
    grids=((8, 8, 8), (16, 8, 4)),
    rates={
        0: 4e-5,
        50: 4e-3,
        18000: 2e-3,
        35999: 2e-3 * (1 + cos(pi * 35999 / 36000)),
    },
    decay=lambda name, kind: 0 if kind in ('norm', 'bias') else 0.05,
    length=36,
    wrapper='AmpOptimWrapper',
    **MUON,
)
RESIZE = dict(type='Resize', scale=32, interpolation='bicubic')
CIFAR10 = dict(
    DEMO,
    train=[
        LOAD,
        dict(
            type='RandomCrop',
            crop_size=32,
            padding=4,
            padding_mode='reflect',
        ),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ],
    test=[LOAD, RESIZE, dict(type='PackInputs')],
    preprocessor=dict(
        mean=[125.3, 123.0, 113.9],
        std=[63.0, 62.1, 66.7],
        to_rgb=True,
        num_classes=10,
    ),
    smoothing=0.1,
    grids=((8, 4, 4), (4, 2, 1)),
    # In epochs of 10 iterations.
    epoch=10,
    rates={
        0: 4e-5,
        10: 4e-3,
        55: 2e-3,
        99: 2e-3 * (1 + cos(pi * 89 / 90)),
    },
    decay=lambda name, kind: 0 if kind in ('norm', 'bias') else 0.05,
    length=10,
    wrapper='AmpOptimWrapper',
    clip=None,
    **MUON,
)
# Patterns of the configs -> recipe. The first that fits counts.
RECIPES = {
    'demo/hatnet*': DEMO_CLS,
    'demo/fpn*': DEMO_FPN,
    'demo/*-100_demo*': dict(DEMO_DET, **muon_for(100)),
    'demo/*': DEMO_DET,
    'shipped/cifar10*': CIFAR10,
    'shipped/shape*': dict(DEMO_FPN, **muon_for(1200)),
    'shipped/tree*': TREES,
    'evidence/hatnet*-60e*': dict(
        CIFAR10,
        mixing=[('CutMix', 1.0)],
        length=60,
        rates={0: 4e-5, 10: 4e-3, 305: 2e-3},
    ),
    'evidence/hatnet*': CIFAR10,
    'evidence/retinanet*': TREES,
    'evidence/fpn*': dict(DEMO_FPN, **muon_for(1200)),
    'evidence/mask-rcnn*': DEMO_DET,
    'evidence/resnet*': dict(CIFAR10, grids=None, drop_path=None),
    'evidence/*': dict(CIFAR10, grids=None),
    'hatnet/hatnet-[ml]*': imagenet(
        1e-3, 300, drop_path=0.3, clip=dict(max_norm=1.0)
    ),
    'hatnet/*': imagenet(1e-3, 300),
    'ablation/hatnet-*-100e*': imagenet(5e-4, 100),
    'ablation/hatnet-*': imagenet(1e-3, 300),
    'sem_fpn/*': FPN,
    'ablation/fpn*': FPN,
    'upernet/*layer-decay*': dict(UPERNET, layer_decay=0.9),
    'upernet/*': UPERNET,
    'mask2former/*': MASK2FORMER,
    'retinanet/*': DET,
    'faster_rcnn/*': DET,
    'mask_rcnn/*-amp-*': dict(INSTANCE, wrapper='AmpOptimWrapper'),
    '*_rcnn/*': INSTANCE,
}


def recipe_of(config):
    return next(r for key, r in RECIPES.items() if fnmatch(config, key))


def contains(found, expected):
    """A dict with the expected entries, and None or a scope in the others."""
    others = {k: v for k, v in found.items() if k not in expected}
    others.pop('_scope_', None)
    assert {k: found[k] for k in expected if k in found} == expected
    assert not any(others.values()), others
    return True


@pytest.fixture(params=CONFIGS)
def config(request):
    return request.param


@pytest.fixture
def cfg(config):
    return open_config(config)


@pytest.fixture
def recipe(config):
    return recipe_of(config)


def test_data(cfg, recipe):
    for split in ('train', 'test'):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        for found, expected in zip(pipeline, recipe[split], strict=True):
            assert contains(found, expected)
    assert contains(cfg.train_dataloader.sampler, recipe['sampler'])
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    for key, value in recipe['preprocessor'].items():
        assert preprocessor[key] == value, key
    dataset = cfg.train_dataloader.dataset
    if cfg.default_scope == 'mmdet':
        # Images without objects, and smaller than 32 pixels, are left out.
        size = recipe.get('min_size', 32)
        assert dataset.filter_cfg.filter_empty_gt
        assert dataset.filter_cfg.get('min_size') == size


def test_model(cfg, recipe):
    backbone = cfg.model.backbone
    if recipe['grids']:
        assert tuple(backbone.grid_sizes) == recipe['grids'][0]
        assert tuple(backbone.ds_ratios) == recipe['grids'][1]
    assert backbone.get('drop_path_rate') == recipe['drop_path']
    train_cfg = cfg.model.get('train_cfg') or {}
    mixing = [(a.type, a.alpha) for a in train_cfg.get('augments', [])]
    assert mixing == recipe.get('mixing', [])
    if 'smoothing' in recipe:
        loss = cfg.model.head.loss
        assert loss.type == 'LabelSmoothLoss'
        assert loss.label_smooth_val == recipe['smoothing']


def test_optimizer(cfg, recipe):
    """Rate and decay of every parameter."""
    assert cfg.optim_wrapper.type == recipe['wrapper']
    assert cfg.optim_wrapper.get('clip_grad') == recipe['clip']
    kind = recipe.get('optimizer', 'AdamW')
    assert cfg.optim_wrapper.optimizer.type == kind
    if kind != 'AdamW':
        pytest.importorskip('timm')
    adapt_to_cpu(cfg)
    # Other backbones read values while they are built.
    with torch.device('meta' if recipe['grids'] else 'cpu'):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    if kind == 'AdamW':
        assert optimizer.defaults['betas'] == (0.9, 0.999)
        assert optimizer.defaults['eps'] == 1e-8
    groups = {
        parameter: group
        for group in optimizer.param_groups
        for parameter in group['params']
    }
    seen = 0
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = 'norm' if isinstance(module, NORMS) else name
            name = f'{prefix}.{name}'
            group = groups[parameter]
            assert group['weight_decay'] == recipe['decay'](name, kind), name
            lr = recipe['lr']
            if name.startswith('backbone.'):
                lr = recipe.get('backbone_lr', lr)
                if name.startswith('backbone.stem.'):
                    decay = recipe.get('layer_decay', 1)
                    lr *= decay ** (sum(model.backbone.depths) + 1)
            if 'layer_decay' not in recipe or not re.match(
                r'backbone\.(stages|downsamples)', name
            ):
                assert group['lr'] == pytest.approx(lr), name
            seen += 1
    assert seen == len(groups) == len(list(model.parameters()))


@cache
def learning_rates(lr, schedules, length, epoch_length):
    """The rate in every iteration."""
    optimizer = OptimWrapper(torch.optim.SGD([torch.ones(1)], lr))
    schedulers = [
        PARAM_SCHEDULERS.build(
            settings,
            default_args=dict(optimizer=optimizer, epoch_length=epoch_length),
        )
        for settings in literal_eval(schedules)
    ]
    rates = []
    for i in range(length * epoch_length):
        rates.append(optimizer.get_lr()['lr'][0])
        for scheduler in schedulers:
            if not scheduler.by_epoch or (i + 1) % epoch_length == 0:
                scheduler.step()
    return rates


def test_schedule(cfg, recipe):
    """The rate at the start, after the warm-up, in the middle, at the end."""
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    assert length == recipe['length']
    rates = learning_rates(
        recipe['lr'],
        str([dict(settings) for settings in cfg.param_scheduler]),
        length,
        recipe.get('epoch', 1),
    )
    for iteration, expected in recipe['rates'].items():
        assert rates[iteration] == pytest.approx(
            expected, rel=1e-3, abs=1e-15
        ), iteration


@pytest.mark.parametrize('config', CONFIGS)
def test_batch_size(config):
    """It is the one in the name."""
    cfg = open_config(config)
    found = re.search(r'(\d+)xb(\d+)', config)
    if config.startswith('shipped/'):  # named by what it does
        found = ('', 1, cfg.train_dataloader.batch_size)
    gpus, images = int(found[1]), int(found[2])
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr.base_batch_size == gpus * images
