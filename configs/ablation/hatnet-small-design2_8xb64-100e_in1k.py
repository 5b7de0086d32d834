# Design 2 of Table 5: H-MHSA in stage 0, window attention in stages 1 and 2.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_bs512_adamw_100e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(arch='small', attn_types=('h-mhsa', 'window', 'window')),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=64)
