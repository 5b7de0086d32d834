# From random weights, to see what pretraining is worth, and for the ablations.
_base_ = 'fpn_hatnet-micro_1xb8-400_demo.py'

model = dict(backbone=dict(init_cfg=None))
