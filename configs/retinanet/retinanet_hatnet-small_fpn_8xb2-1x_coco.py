_base_ = [
    '../_base_/models/retinanet_hatnet_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_bs16_adamw_1x.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint='hatnet://small')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
