"""The config of a plan: a few lines of mm over our own configs."""

import os
from pathlib import Path

from mmengine.config import Config

from ..utils.atomic import replacing
from .plan import METRICS, Plan, has_muon, widths

SCOPES = dict(
    classification='mmpretrain',
    segmentation='mmseg',
    detection='mmdet',
    instances='mmdet',
)
MICRO = 64  # channels of the necks and heads of the smallest models
GROUPS = dict(type='GN', num_groups=16)
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def make_config(plan: Plan, data: dict) -> Config:
    """Write the config of a plan.

    Args:
        plan (Plan): The complete plan.
        data (dict): As from :func:`~mmhatnet.finetune.converting.convert`:
            data sets of ``train``, ``val`` and maybe ``test``, and
            ``metainfo``.

    Returns:
        Config: What differs from ``_base_``.
    """
    scope = SCOPES[plan.task]
    model = _MODELS[plan.task](plan)
    init = dict(type='Pretrained', checkpoint=plan.start)
    if not plan.start:
        init = dict(type='mmhatnet.FanOutInit')
        if plan.task != 'classification':  # the others have weights
            init['_delete_'] = True
    model['backbone'] |= dict(
        arch=plan.arch,
        grid_sizes=plan.grid_sizes,
        ds_ratios=plan.ds_ratios,
        drop_path_rate=0.0 if plan.arch == 'micro' else 0.1,
        init_cfg=init,
    )
    micro = plan.arch == 'micro' and plan.task == 'detection'
    base = dict(
        classification='hatnet_cls',
        segmentation='fpn_hatnet',
        detection=f'retinanet_hatnet{"-micro" * micro}_fpn',
        instances='mask-rcnn_hatnet_fpn',
    )[plan.task]
    return Config(
        dict(
            _base_=[
                f'mmhatnet::_base_/models/{base}.py',
                f'mmhatnet::_base_/{scope}_runtime.py',
            ],
            model=model,
            **_preprocessor(plan),
            **_loaders(plan, data),
            **_schedule(plan),
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


def _classifier(plan: Plan) -> dict:
    backbone: dict = dict(stem_stride=2) if plan.small else {}
    count = len(plan.classes)
    head = dict(
        num_classes=count, in_channels=widths(plan.arch)[-1], topk=(1,)
    )
    # Mixtures of images are hard to learn in a short training.
    return dict(backbone=backbone, head=head, train_cfg=None)


def _segmentor(plan: Plan) -> dict:
    crop = _crop(plan)
    found = dict(
        data_preprocessor=dict(size=(crop, crop)),
        backbone={},
        neck=dict(in_channels=widths(plan.arch)),
        decode_head=dict(num_classes=len(plan.classes)),
    )
    if plan.arch == 'micro':
        # Without the last stage, which has half of the parameters.
        found['backbone'] = dict(out_indices=(0, 1, 2))
        found['neck'] = dict(
            in_channels=widths('micro')[:3], out_channels=MICRO, num_outs=3
        )
        found['decode_head'] |= dict(
            feature_strides=[4, 8, 16],
            in_channels=[MICRO] * 3,
            in_index=[0, 1, 2],
            channels=MICRO,
        )
    return found


def _anchor(plan: Plan, stride: int, most: int) -> int:
    """Size of the smallest anchors, in strides: that of small objects."""
    pixels = plan.object_size * plan.size
    return max(1, min(most, round(pixels / stride)))


def _detector(plan: Plan) -> dict:
    micro = plan.arch == 'micro'
    anchors = dict(octave_base_scale=_anchor(plan, 8, 4))
    return dict(
        backbone={},
        neck={} if micro else dict(in_channels=widths(plan.arch)),
        bbox_head=dict(
            num_classes=len(plan.classes), anchor_generator=anchors
        ),
    )


def _instance_segmentor(plan: Plan) -> dict:
    count = dict(num_classes=len(plan.classes))
    anchors = dict(anchor_generator=dict(scales=[_anchor(plan, 4, 8)]))
    neck: dict = dict(in_channels=widths(plan.arch))
    heads: dict = dict(bbox_head=dict(count), mask_head=dict(count))
    if plan.arch == 'micro':
        into = dict(in_channels=MICRO)
        out = dict(out_channels=MICRO)
        neck |= out
        anchors |= dict(into, feat_channels=MICRO)
        heads['bbox_head'] |= dict(into, fc_out_channels=4 * MICRO)
        heads['mask_head'] |= dict(into, conv_out_channels=MICRO)
        heads |= dict(bbox_roi_extractor=out, mask_roi_extractor=out)
    return dict(
        backbone={},
        neck=neck,
        rpn_head=anchors,
        roi_head=heads,
        # Fewer proposals than in mmdetection: images are small.
        train_cfg=dict(
            rpn_proposal=dict(nms_pre=500, max_per_img=200),
            rcnn=dict(sampler=dict(num=64)),
        ),
        test_cfg=dict(rpn=dict(max_per_img=200)),
    )


_MODELS = dict(
    classification=_classifier,
    segmentation=_segmentor,
    detection=_detector,
    instances=_instance_segmentor,
)


def _preprocessor(plan: Plan) -> dict:
    if plan.task != 'classification':
        return {}
    return dict(
        data_preprocessor=dict(
            num_classes=len(plan.classes),
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True,
        )
    )


def _crop(plan: Plan) -> int:
    """Side of the crops of a segmentor."""
    return max(96, 32 * round(0.75 * plan.size / 32))


def _pipelines(plan: Plan) -> tuple[list[dict], list[dict]]:
    """The transforms of the training, and of tests."""
    load, size = dict(type='LoadImageFromFile'), plan.size
    flip = dict(type='RandomFlip', prob=0.5)
    if plan.task == 'classification':
        pack = dict(type='PackInputs')
        if plan.small:
            resize = [dict(type='Resize', scale=size)]
            crop = dict(
                type='RandomCrop',
                crop_size=size,
                padding=size // 8,
                padding_mode='reflect',
            )
            return [load, *resize, crop, flip, pack], [load, *resize, pack]
        crop = dict(
            type='RandomResizedCrop', scale=size, crop_ratio_range=(0.3, 1.0)
        )
        test = [
            dict(type='ResizeEdge', scale=size, edge='short'),
            dict(type='CenterCrop', crop_size=size),
        ]
        return [load, crop, flip, pack], [load, *test, pack]
    vary = dict(
        type='RandomResize',
        scale=(size, size),
        ratio_range=(0.8, 1.5),
        keep_ratio=True,
    )
    colours = dict(type='PhotoMetricDistortion')
    resize = [dict(type='Resize', scale=(size, size), keep_ratio=True)]
    if plan.task == 'segmentation':
        labels = dict(type='LoadAnnotations')
        crop = _crop(plan)
        cut = dict(
            type='RandomCrop', crop_size=(crop, crop), cat_max_ratio=0.9
        )
        pack = dict(type='PackSegInputs')
        return (
            [load, labels, vary, cut, flip, colours, pack],
            [load, *resize, labels, pack],
        )
    labels = dict(type='LoadAnnotations', with_bbox=True)
    if plan.task == 'instances':
        labels['with_mask'] = True
    cut = dict(type='RandomCrop', crop_size=(size, size))
    pack = dict(type='PackDetInputs')
    return (
        [load, labels, vary, cut, flip, colours, pack],
        [load, *resize, labels, dict(pack, meta_keys=META_KEYS)],
    )


def _loaders(plan: Plan, data: dict) -> dict:
    train, test = _pipelines(plan)
    found: dict = dict(
        train_dataloader=dict(
            batch_size=plan.batch_size,
            num_workers=1,
            persistent_workers=True,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dict(_dataset(plan, data, 'train'), pipeline=train),
        )
    )
    detects = plan.task in ('detection', 'instances')
    for split in ('val', 'test'):
        source = split if data.get(split) else 'val'
        dataset = dict(_dataset(plan, data, source), pipeline=test)
        if detects or plan.task == 'classification':
            dataset['test_mode'] = True
        found[f'{split}_dataloader'] = dict(
            batch_size=plan.batch_size if plan.task == 'classification' else 1,
            num_workers=1,
            persistent_workers=True,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dataset,
        )
        found[f'{split}_evaluator'] = _evaluator(plan, dataset)
    return found


def _dataset(plan: Plan, data: dict, split: str) -> dict:
    found = dict(data[split])
    found.setdefault('metainfo', data['metainfo'])
    if split == 'train' and plan.task in ('detection', 'instances'):
        found['filter_cfg'] = dict(filter_empty_gt=True)
    return found


def _evaluator(plan: Plan, dataset: dict) -> dict:
    if plan.task == 'classification':
        return dict(type='Accuracy', topk=(1,))
    if plan.task == 'segmentation':
        return dict(type='IoUMetric', iou_metrics=['mIoU'])
    kinds = ['bbox', 'segm'] if plan.task == 'instances' else ['bbox']
    path = os.path.join(dataset.get('data_root', ''), dataset['ann_file'])
    return dict(type='CocoMetric', ann_file=path, metric=kinds)


def _schedule(plan: Plan) -> dict:
    metric, _ = METRICS[plan.task]
    warm = max(1, min(50, plan.iters // 10))
    interval = max(1, -(-plan.iters // plan.evaluations))
    # A kill then costs no more than half a minute.
    save = max(1, min(interval, round(30 / max(plan.step, 0.01))))
    smallest_gain = 1e-3 if metric.startswith('coco') else 0.1
    found = dict(
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(
                type='mmhatnet.Muon' if has_muon() else 'AdamW',
                lr=plan.lr,
                weight_decay=0.05,
            ),
            paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
            clip_grad=dict(max_norm=5.0),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, end=warm, by_epoch=False),
            dict(
                type='CosineAnnealingLR',
                T_max=max(1, plan.iters - warm),
                eta_min=0.0,
                begin=warm,
                end=plan.iters,
                by_epoch=False,
            ),
        ],
        train_cfg=dict(
            type='IterBasedTrainLoop',
            max_iters=plan.iters,
            val_interval=interval,
        ),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        custom_hooks=[
            # Tests use a running mean of the weights.
            dict(
                type='EMAHook',
                momentum=float(f'{min(0.2, max(0.005, 20 / plan.iters)):.2g}'),
            ),
            dict(
                type='EarlyStoppingHook',
                monitor=metric,
                rule='greater',
                min_delta=smallest_gain,
                patience=4,
            ),
        ],
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
        randomness=dict(seed=plan.seed),
    )
    if plan.task != 'instances':  # whose operators lack bfloat16
        found['optim_wrapper'] |= dict(
            type='AmpOptimWrapper', dtype='bfloat16'
        )
    return found
