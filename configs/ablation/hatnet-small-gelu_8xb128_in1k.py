# GELU instead of SiLU (Sec. 4.4). The paper compares them in this schedule.
_base_ = '../hatnet/hatnet-tiny_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='small', act_cfg=dict(type='GELU')),
    head=dict(in_channels=512),
)
