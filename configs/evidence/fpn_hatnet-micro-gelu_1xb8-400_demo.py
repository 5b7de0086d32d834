# GELU instead of SiLU (Sec. 4.4).
_base_ = 'fpn_hatnet-micro_1xb8-400_demo.py'

model = dict(backbone=dict(init_cfg=None, act_cfg=dict(type='GELU')))
