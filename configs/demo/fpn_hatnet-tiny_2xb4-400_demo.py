# Semantic FPN on the demo data, from scratch, in minutes on two cores.
_base_ = [
    '../_base_/models/fpn_hatnet.py',
    '../_base_/datasets/demo_semantic.py',
    '../_base_/schedules/demo_muon_400.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
        drop_path_rate=0.0,
        # The maps are as small as in classification, so use its G2.
        ds_ratios=(8, 4, 2),
    ),
    neck=dict(out_channels=128),
    decode_head=dict(in_channels=[128] * 4, num_classes=7),
)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=10))
visualizer = dict(alpha=0.5)
