# From random weights, to see what pretraining is worth.
_base_ = 'mask-rcnn_hatnet-micro_fpn_1xb8-6e_demo.py'

model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'))
)
