from mmcv.ops import nms
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.evaluation import CocoMetric
from mmdet.models import DetDataPreprocessor, FocalLoss, RetinaHead, RetinaNet
from mmdet.models.necks import FPN
from mmdet.models.task_modules import MaxIoUAssigner, PseudoSampler
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base

with read_base():
    from .runtime import *  # noqa: F403

levels = dict(out_channels=16, start_level=1, num_outs=5)
sizes = dict(num_classes=6, in_channels=16, stacked_convs=1, feat_channels=16)
limits = dict(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
training = dict(sampler=dict(type=PseudoSampler), allowed_border=-1)
testing = dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, max_per_img=10)
assigner = dict(type=MaxIoUAssigner, **limits)
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=backbone,  # noqa: F405
    neck=dict(type=FPN, in_channels=[8, 16, 16, 24], **levels),
    bbox_head=dict(type=RetinaHead, loss_cls=dict(type=FocalLoss), **sizes),
    train_cfg=dict(assigner=assigner, pos_weight=-1, **training),
    test_cfg=dict(nms=dict(type=nms, iou_threshold=0.5), **testing),
)
names = 'disk', 'square', 'triangle', 'star', 'ring', 'cross'
dataset = dict(
    type=CocoDataset,
    data_root='data/demo/coco/',
    metainfo=dict(classes=names),
    pipeline=[
        dict(type=LoadImageFromFile),
        dict(type=Resize, scale_factor=1.0),
        dict(type=LoadAnnotations, with_bbox=True),
        dict(type=PackDetInputs),
    ],
)
folder = 'annotations/instances_'
train_dataloader = dict(
    **loader,  # noqa: F405
    dataset=dict(
        **dataset,
        ann_file=f'{folder}train2017.json',
        data_prefix=dict(img='train2017/'),
    ),
)
test_dataloader = val_dataloader = dict(
    **loader,  # noqa: F405
    dataset=dict(
        **dataset,
        ann_file=f'{folder}val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
    ),
)
test_evaluator = val_evaluator = dict(
    type=CocoMetric,
    ann_file=f'data/demo/coco/{folder}val2017.json',
    metric='bbox',
)
visualizer = dict(type=DetLocalVisualizer, name='visualizer')
