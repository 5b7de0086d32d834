"""The recipes are those of the paper.

What the paper prints is written here, with its section; where it is silent, it
follows DeiT and PVT. Data are compared with the libraries' own configs, and so
is the schedule of models beyond the paper. Demos and experiments are our own
choice.
"""

import re
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
from mmhatnet.utils.config import read_config

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
ADE20K = '160k_ade20k-512x512.py'


def imagenet(lr, batch, epochs, drop_path=0.1, clip=None):
    """Sec. 4.1 and 4.4.

    DeiT has mixed precision, a warm-up over 5 epochs, a last rate of 1e-5, and
    no decay of norms and biases. Drop path and clipping are PVT's.
    """

    def cosine(epoch):
        factor = (1 + cos(pi * (epoch - 5) / (epochs - 5))) / 2
        return 1e-5 + (lr - 1e-5) * factor

    return dict(
        library='mmpretrain::deit/deit-small_4xb256_in1k.py',
        grids=((8, 7, 7), (8, 4, 2)),
        drop_path=drop_path,
        wrapper='AmpOptimWrapper',
        clip=clip,
        lr=lr,
        decay=lambda kind: 0.05 if kind == 'weight' else 0,
        batch=batch,
        length=epochs,
        epoch=10,  # iterations, to look at a few
        rates={0: lr / 1000, 50: lr}
        | {e * 10: cosine(e) for e in (epochs // 2, epochs - 1)},
    )


# G1 and G2 of Sec. 4.2 and 4.3. PVT has this drop path and no clipping.
DENSE = dict(
    grids=((8, 8, 8), (16, 8, 4)),
    drop_path=0.1,
    wrapper='OptimWrapper',
    clip=None,
    lr=1e-4,
    decay=lambda kind: 1e-4,
    batch=16,
)
# Sec. 4.2. PVT has 80k iterations at this batch size, a last rate of 0, and no
# warm-up.
FPN = dict(
    DENSE,
    library='mmseg::twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_'
    'ade20k-512x512.py',
    length=80000,
    rates={i: 1e-4 * (1 - i / 79999) ** 0.9 for i in (0, 40000, 79999)},
)
# Sec. 4.3: ten times less after the 8th and 11th epoch. PVT has mmdetection's
# warm-up.
BOXES = dict(
    DENSE,
    library='mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',
    length=12,
    epoch=1000,
    rates={0: 1e-7, 500: 1e-4, 7999: 1e-4}
    | {8000: 1e-5, 10999: 1e-5, 11000: 1e-6, 11999: 1e-6},
)
MASKS = dict(BOXES, library='mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
# Beyond the paper, as with Swin-T.
UPERNET = dict(
    library='mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-'
    + ADE20K,
    batch=16,
)
MASK2FORMER = dict(
    library='mmseg::mask2former/mask2former_swin-t_8xb2-' + ADE20K, batch=16
)
# Patterns of the configs -> recipe. The first that fits counts.
RECIPES = {
    'hatnet/hatnet-[ml]*': imagenet(1e-3, 1024, 300, 0.3, dict(max_norm=1.0)),
    'hatnet/*': imagenet(1e-3, 1024, 300),
    'ablation/hatnet-*-100e*': imagenet(5e-4, 512, 100),
    'ablation/hatnet-*': imagenet(1e-3, 1024, 300),
    'ablation/fpn*': FPN,
    'sem_fpn/*': FPN,
    'retinanet/*': BOXES,
    'mask_rcnn/*-amp-*': dict(MASKS, wrapper='AmpOptimWrapper'),
    'mask_rcnn/*': MASKS,
    'cascade_rcnn/*': MASKS,
    'faster_rcnn/*': BOXES,
    'upernet/*': UPERNET,
    'mask2former/*': MASK2FORMER,
}
DEFAULTS = dict(begin=0, power=1.0)  # of schedulers
OURS = 'demo/', 'evidence/', 'shipped/'
open_library = cache(read_config)


def find_recipe(config):
    return next(r for key, r in RECIPES.items() if fnmatch(config, key))


THEIRS = [config for config in CONFIGS if not config.startswith(OURS)]
of_the_paper = pytest.mark.parametrize(
    'config', [config for config in THEIRS if 'lr' in find_recipe(config)]
)


def plain(part):
    """Without the scopes that mmengine writes into what is inherited."""
    if isinstance(part, dict):
        return {k: plain(v) for k, v in part.items() if k != '_scope_'}
    return [plain(v) for v in part] if isinstance(part, list) else part


def read_data(cfg):
    """What decides about the images that a model sees."""
    loaders = cfg.train_dataloader, cfg.test_dataloader
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    return dict(
        pipelines=[plain(loader.dataset.pipeline) for loader in loaders],
        filter=plain(cfg.train_dataloader.dataset.get('filter_cfg')),
        sampler=plain(cfg.train_dataloader.sampler),
        preprocessor=plain(preprocessor),
    )


@pytest.mark.parametrize('config', THEIRS)
def test_data(config):
    cfg, recipe = open_config(config), find_recipe(config)
    library = open_library(recipe['library'])
    expected = read_data(library)
    if 'mmpretrain' in recipe['library']:
        # DeiT's own code repeats augmentation.
        expected['sampler']['type'] = 'RepeatAugSampler'
    assert read_data(cfg) == expected
    if 'lr' not in recipe:
        found, theirs = (
            [DEFAULTS | each for each in plain(x.param_scheduler)]
            for x in (cfg, library)
        )
        assert found == theirs
        assert cfg.train_cfg.max_iters == library.train_cfg.max_iters
        ours, theirs = (x.optim_wrapper.optimizer for x in (cfg, library))
        for key in ('lr', 'weight_decay'):
            assert ours[key] == theirs[key]


@of_the_paper
def test_model(config):
    cfg, recipe = open_config(config), find_recipe(config)
    backbone = cfg.model.backbone
    arch = re.search('hatnet-(tiny|small|medium|large)', config)[1]
    assert backbone.arch == arch
    if 'mmpretrain' not in recipe['library'] and 'ablation' not in config:
        assert backbone.init_cfg.checkpoint == f'hatnet://{arch}'
    grids = tuple(backbone.grid_sizes), tuple(backbone.ds_ratios)
    assert grids == recipe['grids']
    assert backbone.drop_path_rate == recipe['drop_path']
    if 'mmpretrain' in recipe['library']:  # mixing and label smoothing
        theirs = open_library(recipe['library']).model
        assert cfg.model.train_cfg == theirs.train_cfg
        assert cfg.model.head.loss == theirs.head.loss


@of_the_paper
def test_optimizer(config):
    """Rate and decay of every parameter."""
    cfg, recipe = open_config(config), find_recipe(config)
    assert cfg.optim_wrapper.type == recipe['wrapper']
    assert cfg.optim_wrapper.get('clip_grad') == recipe['clip']
    adapt_to_cpu(cfg)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults['betas'] == (0.9, 0.999)
    assert optimizer.defaults['eps'] == 1e-8
    groups = {p: g for g in optimizer.param_groups for p in g['params']}
    seen = 0
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = 'norm' if isinstance(module, NORMS) else name
            name, group = f'{prefix}.{name}', groups[parameter]
            assert group['weight_decay'] == recipe['decay'](kind), name
            assert group['lr'] == pytest.approx(recipe['lr']), name
            seen += 1
    assert seen == len(groups) == len(list(model.parameters()))


@of_the_paper
def test_schedule(config):
    """The rate at the start, after the warm-up, in the middle, at the end."""
    cfg, recipe = open_config(config), find_recipe(config)
    length, epoch = recipe['length'], recipe.get('epoch', 1)
    assert length in cfg.train_cfg.values()
    optimizer = OptimWrapper(
        torch.optim.SGD([torch.ones(1)], cfg.optim_wrapper.optimizer.lr)
    )
    defaults = dict(optimizer=optimizer, epoch_length=epoch)
    schedulers = [
        PARAM_SCHEDULERS.build(settings, default_args=defaults)
        for settings in cfg.param_scheduler
    ]
    rates = []
    for i in range(length * epoch):
        rates.append(optimizer.get_lr()['lr'][0])
        for scheduler in schedulers:
            if not scheduler.by_epoch or (i + 1) % epoch == 0:
                scheduler.step()
    found = {iteration: rates[iteration] for iteration in recipe['rates']}
    assert found == pytest.approx(recipe['rates'], rel=1e-3, abs=1e-15)


@pytest.mark.parametrize('config', CONFIGS)
def test_batch_size(config):
    """It is the one in the name, and that of the recipe."""
    cfg = open_config(config)
    found = re.search(r'(\d+)xb(\d+)', config)
    if config.startswith('shipped/'):  # named by what it does
        found = ('', 1, cfg.train_dataloader.batch_size)
    gpus, images = int(found[1]), int(found[2])
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr.base_batch_size == gpus * images
    if not config.startswith(OURS):
        assert find_recipe(config)['batch'] == gpus * images
