# GELU for SiLU (Sec. 4.4) in the full schedule, where the paper compares both.
_base_ = '../hatnet/hatnet-small_8xb128_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='GELU')))
