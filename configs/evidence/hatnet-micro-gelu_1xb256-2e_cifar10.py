# GELU instead of SiLU (Sec. 4.4).
_base_ = 'hatnet-micro_1xb256-2e_cifar10.py'

model = dict(backbone=dict(act_cfg=dict(type='GELU')))
