_base_ = './fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint='hatnet://small')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
