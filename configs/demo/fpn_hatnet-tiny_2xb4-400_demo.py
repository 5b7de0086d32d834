# Semantic FPN on the demo data, from scratch, in minutes on two cores.
_base_ = [
    '../_base_/models/fpn_hatnet.py',
    '../_base_/datasets/demo_semantic.py',
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
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=20, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=20, end=400, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=400, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=10))
visualizer = dict(alpha=0.5)
