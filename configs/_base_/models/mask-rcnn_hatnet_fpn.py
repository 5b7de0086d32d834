_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmhatnet.HATNet',
        arch='tiny',
        # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
        grid_sizes=(8, 8, 8),
        ds_ratios=(16, 8, 4),
        # Not published. mmdetection's configs of PVT have it for all sizes;
        # PVT's own code has 0 for Medium and Large.
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://tiny'),
    ),
    neck=dict(in_channels=[48, 96, 240, 384]),
)
