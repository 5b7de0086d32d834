_base_ = [
    '../_base_/models/mask-rcnn_hatnet_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_bs16_adamw_1x.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(
        arch='large',
        # Activation checkpointing: less memory, slower training.
        with_cp=True,
        init_cfg=dict(checkpoint='hatnet://large'),
    ),
    neck=dict(in_channels=[64, 128, 320, 640]),
)
