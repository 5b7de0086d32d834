# A detector of tree crowns, small enough for a CPU and for the package:
# without the last stage, which has half of the parameters.
_base_ = [
    '../_base_/models/retinanet_hatnet_fpn.py',
    '../_base_/datasets/tree_crowns.py',
    '../_base_/schedules/tree_crowns_adamw_36e.py',
    '../_base_/mmdet_runtime.py',
]

norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(
        arch='micro',
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='hatnet://cifar10-classifier'),
    ),
    neck=dict(
        in_channels=[32, 64, 128],
        out_channels=64,
        num_outs=4,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        num_classes=1,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # The roots of the boxes' areas are 8 to 106 pixels, 40 in the median.
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64]),
    ),
)
default_hooks = dict(logger=dict(interval=10))
