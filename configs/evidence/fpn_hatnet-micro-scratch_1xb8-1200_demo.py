# The segmentor of shapes, from random weights.
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'))
)
