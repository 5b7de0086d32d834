_base_ = './mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco.py'

model = dict(
    backbone=dict(arch='large', init_cfg=dict(checkpoint='hatnet://large')),
    neck=dict(in_channels=[64, 128, 320, 640]),
)
