# GELU instead of SiLU (Sec. 4.4), with the schedule of the other ablations.
_base_ = './hatnet-small-design4_8xb64-100e_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='GELU')))
