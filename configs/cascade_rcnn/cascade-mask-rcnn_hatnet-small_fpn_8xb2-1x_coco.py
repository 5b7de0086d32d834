_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_bs16_adamw_1x.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmhatnet.HATNet',
        arch='small',
        # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
        grid_sizes=(8, 8, 8),
        ds_ratios=(16, 8, 4),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://small'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
