# With the random initial weights of the authors' code.
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

model = dict(backbone=dict(init_cfg=None))
