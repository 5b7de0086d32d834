# An instance segmentor of shapes on photographs, from random weights.
_base_ = '../demo/mask-rcnn_hatnet-tiny_fpn_2xb4-6e_demo.py'

model = dict(
    backbone=dict(arch='micro'), neck=dict(in_channels=[32, 64, 128, 192])
)
train_dataloader = dict(batch_size=8)
