# GELU instead of SiLU (Sec. 4.4), with the full schedule, as in the paper.
_base_ = '../hatnet/hatnet-small_8xb128_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='GELU')))
