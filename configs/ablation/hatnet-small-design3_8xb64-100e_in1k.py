# Design 3 of Table 5: H-MHSA in stages 0 and 1, window attention in stage 2.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_bs512_adamw_100e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(arch='small', attn_types=('h-mhsa', 'h-mhsa', 'window')),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=64)
