_base_ = [
    '../_base_/hatnet_dense.py',
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_bs16_adamw_1x.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://small'),
        **_base_.hatnet,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
