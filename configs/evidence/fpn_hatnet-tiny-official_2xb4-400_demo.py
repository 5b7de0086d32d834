# The quickstart with the random initial weights of the authors' code.
_base_ = '../demo/fpn_hatnet-tiny_2xb4-400_demo.py'

model = dict(backbone=dict(init_cfg=None))
