# GELU instead of SiLU (Sec. 4.4), with the schedule of the other ablations.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_bs512_adamw_100e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(arch='small', act_cfg=dict(type='GELU')),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=64)
