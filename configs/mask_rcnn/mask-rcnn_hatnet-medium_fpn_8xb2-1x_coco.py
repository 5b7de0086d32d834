_base_ = './mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco.py'

model = dict(
    backbone=dict(arch='medium', init_cfg=dict(checkpoint='hatnet://medium')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
