# GELU instead of SiLU (Sec. 4.4).
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

model = dict(
    backbone=dict(
        act_cfg=dict(type='GELU'),
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
    )
)
