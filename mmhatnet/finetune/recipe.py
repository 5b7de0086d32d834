"""The config of a plan: a few lines of mm over our own configs."""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config

from ..engine.cli import apply_options, inherit_options
from ..models.archs import ARCHS
from ..utils.atomic import write_text
from ..utils.config import read_config
from .plan import Plan, has_muon

FAN_OUT = dict(type='mmhatnet.FanOutInit')  # a random start
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
Settings = dict[str, Any]


def write_config(plan: Plan, data: dict, path: Path) -> None:
    """Write the config of a plan: what differs from ``_base_``.

    Args:
        plan (Plan): The plan; its ``cfg_options`` come last.
        data (dict): As from :func:`~mmhatnet.finetune.converting.convert`.
        path (Path): The file, which is complete or not there at all.

    Raises:
        ValueError: If an option does not fit.
    """
    micro = '-micro' if plan.arch == 'micro' else ''
    model = plan.about.config.format(f'hatnet{micro}')
    runtime = f'{plan.about.library}_runtime'
    bases = f'models/{model}', runtime, 'schedules/finetune'
    config = Config(
        dict(
            _base_=[f'mmhatnet::_base_/{base}.py' for base in bases],
            **_model(plan),
            **_data(plan, data),
            **_schedule(plan),
            randomness=dict(seed=plan.seed),
        )
    )
    if plan.cfg_options:
        args = Namespace(cfg_options=plan.cfg_options)
        with TemporaryDirectory() as folder:
            plain = Path(folder, 'config.py')
            plain.write_text(config.pretty_text, 'utf-8')
            complete = read_config(plain)
        apply_options(complete, args)
        inherit_options(config, args, complete)
    write_text(path, config.pretty_text)


def _model(plan: Plan) -> Settings:
    micro, count = plan.arch == 'micro', dict(num_classes=len(plan.classes))
    sizes: Mapping[str, Any] = ARCHS[plan.arch]
    widths = list(sizes['embed_dims'])
    backbone: Settings = dict(
        arch=plan.arch, grid_sizes=plan.grid_sizes, ds_ratios=plan.ds_ratios
    )
    model: Settings = dict(backbone=backbone)
    init: Settings = dict(type='Pretrained', checkpoint=plan.start)
    backbone['init_cfg'] = init if plan.start else FAN_OUT
    if plan.task == 'classification':
        backbone |= dict(stem_stride=2) if plan.small else {}
        backbone |= dict(drop_path_rate=0.0) if micro else {}
        model['head'] = dict(count, in_channels=widths[-1], topk=(1,))
        # Mixtures of images are hard to learn in a short training.
        model['train_cfg'] = None
        mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        colours = dict(count, mean=mean, std=std, to_rgb=True)
        return dict(data_preprocessor=colours, model=model)
    if not plan.start:  # delete the weights that the base names
        backbone['init_cfg'] = dict(FAN_OUT, _delete_=True)
    if not micro:
        model['neck'] = dict(in_channels=widths)
    if plan.task == 'segmentation':
        size = (_crop(plan), _crop(plan))
        model |= dict(data_preprocessor=dict(size=size), decode_head=count)
    elif plan.task == 'detection':
        anchors: Settings = dict(octave_base_scale=_anchor(plan, 8, 4))
        model['bbox_head'] = dict(count, anchor_generator=anchors)
    else:
        anchors = dict(scales=[_anchor(plan, 4, 8)])
        model['rpn_head'] = dict(anchor_generator=anchors)
        model['roi_head'] = dict(bbox_head=count, mask_head=count)
    return dict(model=model)


def _anchor(plan: Plan, stride: int, most: int) -> int:
    """Size of the smallest anchors, in strides: that of small objects."""
    pixels = plan.object_size * plan.size
    return max(1, min(most, round(pixels / stride)))


def _crop(plan: Plan) -> int:
    """Side of the crops of a segmentor."""
    return max(96, 32 * round(0.75 * plan.size / 32))


def _pipelines(plan: Plan) -> tuple[list[Settings], list[Settings]]:
    """The transforms of the training, and of tests."""
    size, load = plan.size, dict(type='LoadImageFromFile')
    flip = dict(type='RandomFlip', prob=0.5)
    crop: Settings = dict(type='RandomCrop', crop_size=(size, size))
    if plan.task == 'classification':
        pack = dict(type='PackInputs')
        if plan.small:
            resize: Settings = dict(type='Resize', scale=size)
            crop |= dict(crop_size=size, padding=size // 8)
            crop |= dict(padding_mode='reflect')
            return [load, resize, crop, flip, pack], [load, resize, pack]
        crop = dict(type='RandomResizedCrop', scale=size)
        crop['crop_ratio_range'] = (0.3, 1.0)
        edge = dict(type='ResizeEdge', scale=size, edge='short')
        centre = dict(type='CenterCrop', crop_size=size)
        return [load, crop, flip, pack], [load, edge, centre, pack]
    labels: Settings = dict(type='LoadAnnotations')
    if plan.detects:
        labels |= dict(with_bbox=True)
        labels |= dict(with_mask=True) if plan.task == 'instances' else {}
        pack = dict(type='PackDetInputs')
        tested: Settings = dict(pack, meta_keys=META_KEYS)
    else:
        crop |= dict(crop_size=(_crop(plan), _crop(plan)), cat_max_ratio=0.9)
        pack = tested = dict(type='PackSegInputs')
    resize = dict(scale=(size, size), keep_ratio=True)
    vary = dict(resize, type='RandomResize', ratio_range=(0.8, 1.5))
    colours = dict(type='PhotoMetricDistortion')
    return (
        [load, labels, vary, crop, flip, colours, pack],
        [load, dict(resize, type='Resize'), labels, tested],
    )


def _data(plan: Plan, data: dict) -> Settings:
    """The loaders and evaluators of all splits."""
    training, testing = _pipelines(plan)
    found: Settings = {}
    for split in ('train', 'val', 'test'):
        source = data.get(split, data['val'])
        dataset = dict(metainfo=data['metainfo'], **source, pipeline=testing)
        loader = found[f'{split}_dataloader'] = dict(dataset=dataset)
        if split == 'train' or plan.task == 'classification':
            loader['batch_size'] = plan.batch_size
        if split == 'train':
            dataset['pipeline'] = training
            if plan.detects:
                dataset['filter_cfg'] = dict(filter_empty_gt=True)
            continue
        if plan.task != 'segmentation':
            dataset['test_mode'] = True
        found[f'{split}_evaluator'] = _evaluator(plan, dataset)
    return found


def _evaluator(plan: Plan, dataset: Settings) -> Settings:
    if plan.task == 'classification':
        return dict(type='Accuracy', topk=(1,))
    if plan.task == 'segmentation':
        return dict(type='IoUMetric', iou_metrics=['mIoU'])
    kinds = ['bbox', 'segm'] if plan.task == 'instances' else ['bbox']
    path = os.path.join(dataset['data_root'], dataset['ann_file'])
    return dict(type='CocoMetric', ann_file=path, metric=kinds)


def _schedule(plan: Plan) -> Settings:
    warm = min(50, plan.iters // 10)
    interval = -(-plan.iters // plan.evaluations)
    # A kill then costs no more than half a minute.
    save = max(1, min(interval, round(30 / max(plan.step, 0.01))))
    # The tests use a running mean of the weights.
    momentum = float(f'{min(0.2, max(0.005, 20 / plan.iters)):.2g}')
    hooks: list[Settings] = [dict(type='EMAHook', momentum=momentum)]
    if plan.evaluations > 5:
        stop = dict(type='mmhatnet.PatientStoppingHook', rule='greater')
        gain = dict(monitor=plan.about.metric, min_delta=plan.about.gain)
        hooks.append(stop | gain)
    optimizer: Settings = dict(lr=plan.lr)
    if not has_muon():
        optimizer |= dict(_delete_=True, type='AdamW', weight_decay=0.05)
    wrapper: Settings = dict(optimizer=optimizer)
    if plan.task != 'instances':  # whose operators lack bfloat16
        wrapper |= dict(type='AmpOptimWrapper', dtype='bfloat16')
    steps = dict(by_epoch=False, end=plan.iters)
    warming = dict(steps, type='LinearLR', start_factor=0.01, end=warm)
    best = dict(save_best=plan.about.metric, rule='greater', max_keep_ckpts=1)
    return dict(
        optim_wrapper=wrapper,
        param_scheduler=[
            *([warming] if warm else []),
            dict(steps, type='CosineAnnealingLR', begin=warm, eta_min=0.0),
        ],
        train_cfg=dict(max_iters=plan.iters, val_interval=interval),
        custom_hooks=hooks,
        default_hooks=dict(
            checkpoint=dict(best, by_epoch=False, interval=save),
            logger=dict(interval=10, log_metric_by_epoch=False),
        ),
        log_processor=dict(by_epoch=False),
    )
