# Design 4 of Table 5, and the base of the other ablations: HAT-Net-Small with
# 100 epochs, half the batch size and half the learning rate (Sec. 4.4).
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_bs512_adamw_100e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(arch='small'),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=64)
