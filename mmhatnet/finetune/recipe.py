"""The config of a plan: a few lines of mm over our own configs."""

import os
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config

from ..engine.cli import apply_options, inherit_options
from ..utils.atomic import replacing
from ..utils.config import read_config
from .plan import Plan, has_muon

META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def make_config(plan: Plan, data: dict) -> Config:
    """Make the config of a plan: what differs from ``_base_``.

    The data are as from :func:`~mmhatnet.finetune.converting.convert`.
    """
    micro = '-micro' if plan.arch == 'micro' else ''
    model = plan.about.config.format(f'hatnet{micro}')
    runtime = f'{plan.about.library}_runtime'
    bases = f'models/{model}', runtime, 'schedules/finetune'
    return Config(
        dict(
            _base_=[f'mmhatnet::_base_/{base}.py' for base in bases],
            **_model(plan),
            **_loaders(plan, data),
            **_schedule(plan),
            randomness=dict(seed=plan.seed),
        )
    )


def write_config(config: Config, path: Path, args: Namespace) -> None:
    """Write a config with ``--cfg-options``, complete or not at all."""
    if args.cfg_options:
        with TemporaryDirectory() as folder:
            plain = Path(folder, 'config.py')
            plain.write_text(config.pretty_text, 'utf-8')
            complete = read_config(plain)
        apply_options(complete, args)
        inherit_options(config, args, complete)
    with replacing(path) as part:
        part.write_text(config.pretty_text, 'utf-8')


def _model(plan: Plan) -> dict:
    micro, classifies = plan.arch == 'micro', plan.task == 'classification'
    init: dict = dict(type='Pretrained', checkpoint=plan.start)
    if not plan.start:
        init = dict(type='mmhatnet.FanOutInit')
        init |= {} if classifies else dict(_delete_=True)  # of the weights
    backbone: dict = dict(
        arch=plan.arch,
        grid_sizes=plan.grid_sizes,
        ds_ratios=plan.ds_ratios,
        init_cfg=init,
    )
    model: dict = dict(backbone=backbone)
    count: dict = dict(num_classes=len(plan.classes))
    if classifies:
        backbone |= dict(stem_stride=2) if plan.small else {}
        backbone |= dict(drop_path_rate=0.0) if micro else {}
        model['head'] = dict(count, in_channels=plan.widths[-1], topk=(1,))
        # Mixtures of images are hard to learn in a short training.
        model['train_cfg'] = None
        mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        colours = dict(count, mean=mean, std=std, to_rgb=True)
        return dict(data_preprocessor=colours, model=model)
    if not micro:
        model['neck'] = dict(in_channels=plan.widths)
    if plan.task == 'segmentation':
        size = (_crop(plan), _crop(plan))
        model |= dict(data_preprocessor=dict(size=size), decode_head=count)
    elif plan.task == 'detection':
        anchors: dict = dict(octave_base_scale=_anchor(plan, 8, 4))
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


def _pipelines(plan: Plan) -> tuple[list[dict], list[dict]]:
    """The transforms of the training, and of tests."""
    size, sides = plan.size, (plan.size, plan.size)
    load: dict = dict(type='LoadImageFromFile')
    pack: dict = dict(type='PackInputs')
    flip: dict = dict(type='RandomFlip', prob=0.5)
    crop: dict = dict(type='RandomCrop', crop_size=sides)
    if plan.task == 'classification':
        if plan.small:
            resize: dict = dict(type='Resize', scale=size)
            crop |= dict(crop_size=size, padding=size // 8)
            crop |= dict(padding_mode='reflect')
            return [load, resize, crop, flip, pack], [load, resize, pack]
        crop = dict(type='RandomResizedCrop', scale=size)
        crop['crop_ratio_range'] = (0.3, 1.0)
        edge = dict(type='ResizeEdge', scale=size, edge='short')
        centre = dict(type='CenterCrop', crop_size=size)
        return [load, crop, flip, pack], [load, edge, centre, pack]
    labels: dict = dict(type='LoadAnnotations')
    pack = tested = dict(type='PackSegInputs')
    if plan.detects:
        labels |= dict(with_bbox=True)
        labels |= dict(with_mask=True) if plan.task == 'instances' else {}
        pack = dict(type='PackDetInputs')
        tested = pack | dict(meta_keys=META_KEYS)
    else:
        crop |= dict(crop_size=(_crop(plan), _crop(plan)), cat_max_ratio=0.9)
    resize = dict(scale=sides, keep_ratio=True)
    vary = dict(resize, type='RandomResize', ratio_range=(0.8, 1.5))
    colours = dict(type='PhotoMetricDistortion')
    return (
        [load, labels, vary, crop, flip, colours, pack],
        [load, dict(resize, type='Resize'), labels, tested],
    )


def _loaders(plan: Plan, data: dict) -> dict:
    training, testing = _pipelines(plan)
    dataset = dict(
        metainfo=data['metainfo'], **data['train'], pipeline=training
    )
    if plan.detects:
        dataset['filter_cfg'] = dict(filter_empty_gt=True)
    size = plan.batch_size
    found = dict(train_dataloader=dict(batch_size=size, dataset=dataset))
    for split in ('val', 'test'):
        source = data.get(split, data['val'])
        dataset = dict(metainfo=data['metainfo'], **source, pipeline=testing)
        if plan.task != 'segmentation':
            dataset['test_mode'] = True
        found[f'{split}_dataloader'] = dict(
            batch_size=size if plan.task == 'classification' else 1,
            dataset=dataset,
        )
        found[f'{split}_evaluator'] = _evaluator(plan, dataset)
    return found


def _evaluator(plan: Plan, dataset: dict) -> dict:
    if plan.task == 'classification':
        return dict(type='Accuracy', topk=(1,))
    if plan.task == 'segmentation':
        return dict(type='IoUMetric', iou_metrics=['mIoU'])
    kinds = ['bbox', 'segm'] if plan.task == 'instances' else ['bbox']
    path = os.path.join(dataset['data_root'], dataset['ann_file'])
    return dict(type='CocoMetric', ann_file=path, metric=kinds)


def _schedule(plan: Plan) -> dict:
    best: dict = dict(rule='greater')
    warm = min(50, plan.iters // 10)
    interval = -(-plan.iters // plan.evaluations)
    # A kill then costs no more than half a minute.
    save = max(1, min(interval, round(30 / max(plan.step, 0.01))))
    # The tests use a running mean of the weights.
    momentum = float(f'{min(0.2, max(0.005, 20 / plan.iters)):.2g}')
    hooks: list[dict] = [dict(type='EMAHook', momentum=momentum)]
    if plan.evaluations > 5:
        stop = dict(monitor=plan.about.metric, min_delta=plan.about.gain)
        hooks.append(dict(best, type='EarlyStoppingHook', patience=5, **stop))
    optimizer: dict = dict(lr=plan.lr)
    if not has_muon():
        optimizer |= dict(_delete_=True, type='AdamW', weight_decay=0.05)
    wrapper: dict = dict(optimizer=optimizer)
    if plan.task != 'instances':  # whose operators lack bfloat16
        wrapper |= dict(type='AmpOptimWrapper', dtype='bfloat16')
    steps = dict(by_epoch=False, end=plan.iters)
    warming = dict(steps, type='LinearLR', start_factor=0.01, end=warm)
    checkpoint = dict(best, save_best=plan.about.metric, max_keep_ckpts=1)
    checkpoint |= dict(by_epoch=False, interval=save)
    return dict(
        optim_wrapper=wrapper,
        param_scheduler=[
            *([warming] if warm else []),
            dict(steps, type='CosineAnnealingLR', begin=warm, eta_min=0.0),
        ],
        train_cfg=dict(max_iters=plan.iters, val_interval=interval),
        custom_hooks=hooks,
        default_hooks=dict(
            checkpoint=checkpoint,
            logger=dict(interval=10, log_metric_by_epoch=False),
        ),
        log_processor=dict(by_epoch=False),
    )
