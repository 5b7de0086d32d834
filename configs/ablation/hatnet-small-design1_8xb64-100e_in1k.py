# Design 1 of Table 5: window attention in stages 0 to 2, H-MHSA in none.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_bs512_adamw_100e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(arch='small', attn_types=('window', 'window', 'window')),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=64)
