from mmcv.ops import nms
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.evaluation import CocoMetric
from mmdet.models import (
    FPN,
    DetDataPreprocessor,
    FocalLoss,
    L1Loss,
    RetinaHead,
    RetinaNet,
)
from mmdet.models.task_modules import (
    AnchorGenerator,
    DeltaXYWHBBoxCoder,
    MaxIoUAssigner,
    PseudoSampler,
)
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base

with read_base():
    from .runtime import *  # noqa: F403

model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=backbone,  # noqa: F405
    neck=dict(
        type=FPN, in_channels=[8, 16, 16, 24], out_channels=16, num_outs=5
    ),
    bbox_head=dict(
        type=RetinaHead,
        num_classes=6,
        in_channels=16,
        stacked_convs=1,
        feat_channels=16,
        anchor_generator=dict(
            type=AnchorGenerator,
            octave_base_scale=4,
            scales_per_octave=1,
            ratios=[1.0],
            strides=[4, 8, 16, 32, 64],
        ),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True),
        loss_bbox=dict(type=L1Loss),
    ),
    train_cfg=dict(
        assigner=dict(
            type=MaxIoUAssigner,
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
        ),
        sampler=dict(type=PseudoSampler),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.0,
        nms=dict(type=nms, iou_threshold=0.5),
        max_per_img=10,
    ),
)
dataset = dict(
    type=CocoDataset,
    data_root='data/demo/coco/',
    metainfo=dict(
        classes=('disk', 'square', 'triangle', 'star', 'ring', 'cross')
    ),
    pipeline=[
        dict(type=LoadImageFromFile),
        dict(type=Resize, scale_factor=1.0),
        dict(type=LoadAnnotations, with_bbox=True),
        dict(
            type=PackDetInputs,
            meta_keys=(
                'img_id',
                'img_path',
                'ori_shape',
                'img_shape',
                'scale_factor',
            ),
        ),
    ],
)
train_dataloader = dict(
    **loader,  # noqa: F405
    dataset=dict(
        **dataset,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=loader['sampler'],  # noqa: F405
    dataset=dict(
        **dataset,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type=CocoMetric,
    ann_file='data/demo/coco/annotations/instances_val2017.json',
    metric='bbox',
)
test_evaluator = val_evaluator
visualizer = dict(type=DetLocalVisualizer, name='visualizer')
