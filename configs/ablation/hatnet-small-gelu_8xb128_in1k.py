# GELU instead of SiLU (Sec. 4.4). The paper compares them in this schedule.
_base_ = '../hatnet/hatnet-small_8xb128_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='GELU')))
