_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(arch='small'),
    head=dict(in_channels=512),
)
