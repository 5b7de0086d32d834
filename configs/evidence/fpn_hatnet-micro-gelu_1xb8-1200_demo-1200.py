# GELU instead of SiLU (Sec. 4.4).
_base_ = 'fpn_hatnet-micro-scratch_1xb8-1200_demo-1200.py'

model = dict(backbone=dict(act_cfg=dict(type='GELU')))
