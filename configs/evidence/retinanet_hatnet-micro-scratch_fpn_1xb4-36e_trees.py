# From random weights, to measure the effect of pretraining.
_base_ = 'retinanet_hatnet-micro_fpn_1xb4-36e_trees.py'

model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'))
)
