# With the random initial weights of the authors' code.
_base_ = 'fpn_hatnet-micro-scratch_1xb8-1200_demo-1200.py'

model = dict(backbone=dict(init_cfg=None))
