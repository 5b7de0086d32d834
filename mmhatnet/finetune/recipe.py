"""The config of a plan: a few lines of mm over our own configs."""

import os
from pathlib import Path

from mmengine.config import Config

from ..utils.atomic import replacing
from .plan import BOXES, METRICS, Plan, has_muon, widths

SCOPES = dict(
    classification='mmpretrain',
    segmentation='mmseg',
    detection='mmdet',
    instances='mmdet',
)
MODELS = dict(
    classification='hatnet_cls',
    segmentation='fpn_hatnet{}',
    detection='retinanet_hatnet{}_fpn',
    instances='mask-rcnn_hatnet{}_fpn',
)
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def make_config(plan: Plan, data: dict) -> Config:
    """Make the config of a plan.

    Args:
        plan (Plan): The complete plan.
        data (dict): As from :func:`~mmhatnet.finetune.converting.convert`:
            data sets of ``train``, ``val`` and maybe ``test``, and
            ``metainfo``.

    Returns:
        Config: What differs from ``_base_``.
    """
    model = MODELS[plan.task].format('-micro' if plan.arch == 'micro' else '')
    runtime = f'{SCOPES[plan.task]}_runtime'
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


def write_config(config: Config, path: Path) -> None:
    """Write a config, complete or not at all.

    Args:
        config (Config): As from :func:`make_config`.
        path (Path): The file.
    """
    with replacing(path) as part:
        part.write_text(config.pretty_text, 'utf-8')


def _model(plan: Plan) -> dict:
    micro = plan.arch == 'micro'
    init: dict = dict(type='Pretrained', checkpoint=plan.start)
    if not plan.start:
        init = dict(type='mmhatnet.FanOutInit')
        if plan.task != 'classification':  # the others inherit weights
            init['_delete_'] = True
    backbone: dict = dict(
        arch=plan.arch,
        grid_sizes=plan.grid_sizes,
        ds_ratios=plan.ds_ratios,
        init_cfg=init,
    )
    count: dict = dict(num_classes=len(plan.classes))
    if plan.task == 'classification':
        backbone |= dict(stem_stride=2) if plan.small else {}
        backbone |= dict(drop_path_rate=0.0) if micro else {}
        head = dict(count, in_channels=widths(plan.arch)[-1], topk=(1,))
        return dict(
            data_preprocessor=dict(
                count,
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                to_rgb=True,
            ),
            # Mixtures of images are hard to learn in a short training.
            model=dict(backbone=backbone, head=head, train_cfg=None),
        )
    model: dict = dict(backbone=backbone)
    if not micro:
        model['neck'] = dict(in_channels=widths(plan.arch))
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
    flip: dict = dict(type='RandomFlip', prob=0.5)
    if plan.task == 'classification':
        pack = dict(type='PackInputs')
        if plan.small:
            resize: dict = dict(type='Resize', scale=size)
            crop: dict = dict(
                type='RandomCrop',
                crop_size=size,
                padding=size // 8,
                padding_mode='reflect',
            )
            return [load, resize, crop, flip, pack], [load, resize, pack]
        crop = dict(
            type='RandomResizedCrop', scale=size, crop_ratio_range=(0.3, 1.0)
        )
        edge = dict(type='ResizeEdge', scale=size, edge='short')
        centre = dict(type='CenterCrop', crop_size=size)
        return [load, crop, flip, pack], [load, edge, centre, pack]
    labels: dict = dict(type='LoadAnnotations')
    pack, crop = dict(type='PackSegInputs'), dict(type='RandomCrop')
    meta: dict = {}
    if plan.task == 'segmentation':
        crop |= dict(crop_size=(_crop(plan), _crop(plan)), cat_max_ratio=0.9)
    else:
        labels |= dict(with_bbox=True)
        labels |= dict(with_mask=True) if plan.task == 'instances' else {}
        crop |= dict(crop_size=sides)
        pack, meta = dict(type='PackDetInputs'), dict(meta_keys=META_KEYS)
    vary = dict(
        type='RandomResize',
        scale=sides,
        ratio_range=(0.8, 1.5),
        keep_ratio=True,
    )
    colours = dict(type='PhotoMetricDistortion')
    resize = dict(type='Resize', scale=sides, keep_ratio=True)
    return (
        [load, labels, vary, crop, flip, colours, pack],
        [load, resize, labels, dict(pack, **meta)],
    )


def _loaders(plan: Plan, data: dict) -> dict:
    detects = plan.task in BOXES
    pipelines = dict(zip(('train', 'val'), _pipelines(plan), strict=True))
    found: dict = {}
    for split in ('train', 'val', 'test'):
        source = split if split in data else 'val'
        learns = split == 'train'
        dataset = dict(
            metainfo=data['metainfo'],
            **data[source],
            pipeline=pipelines['train' if learns else 'val'],
        )
        if detects and learns:
            dataset['filter_cfg'] = dict(filter_empty_gt=True)
        if not learns and plan.task != 'segmentation':
            dataset['test_mode'] = True
        whole = learns or plan.task == 'classification'
        found[f'{split}_dataloader'] = dict(
            batch_size=plan.batch_size if whole else 1,
            num_workers=1,
            persistent_workers=True,
            sampler=dict(
                type='InfiniteSampler' if learns else 'DefaultSampler',
                shuffle=learns,
            ),
            dataset=dataset,
        )
        if not learns:
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
    metric, _, gain = METRICS[plan.task]
    warm = max(1, min(50, plan.iters // 10))
    interval = -(-plan.iters // plan.evaluations)
    # A kill then costs no more than half a minute.
    save = max(1, min(interval, round(30 / max(plan.step, 0.01))))
    # The tests use a running mean of the weights.
    momentum = float(f'{min(0.2, max(0.005, 20 / plan.iters)):.2g}')
    hooks: list[dict] = [dict(type='EMAHook', momentum=momentum)]
    if plan.evaluations > 5:
        stop = dict(monitor=metric, rule='greater', min_delta=gain, patience=5)
        hooks.append(dict(type='EarlyStoppingHook', **stop))
    optimizer: dict = dict(lr=plan.lr)
    if not has_muon():
        optimizer |= dict(_delete_=True, type='AdamW', weight_decay=0.05)
    wrapper: dict = dict(optimizer=optimizer)
    if plan.task != 'instances':  # whose operators lack bfloat16
        wrapper |= dict(type='AmpOptimWrapper', dtype='bfloat16')
    steps = dict(by_epoch=False, end=plan.iters)
    return dict(
        optim_wrapper=wrapper,
        param_scheduler=[
            dict(steps, type='LinearLR', start_factor=0.01, end=warm),
            dict(steps, type='CosineAnnealingLR', begin=warm, eta_min=0.0),
        ],
        train_cfg=dict(max_iters=plan.iters, val_interval=interval),
        custom_hooks=hooks,
        default_hooks=dict(
            checkpoint=dict(
                by_epoch=False,
                interval=save,
                max_keep_ckpts=1,
                save_best=metric,
                rule='greater',
            ),
            logger=dict(interval=10, log_metric_by_epoch=False),
        ),
        log_processor=dict(by_epoch=False),
    )
