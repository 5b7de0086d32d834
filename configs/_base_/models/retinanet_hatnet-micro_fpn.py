# A detector that is small enough for a CPU and for the package: without the
# last stage, which has half of the parameters. Boxes are 8 to 106 pixels wide.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmhatnet.HATNet',
        arch='micro',
        # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
        grid_sizes=(8, 8, 8),
        ds_ratios=(16, 8, 4),
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained', checkpoint='hatnet://cifar10-classifier'
        ),
        out_indices=(0, 1, 2),
    ),
    neck=dict(
        in_channels=[32, 64, 128],
        out_channels=64,
        num_outs=4,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64]),
    ),
)
