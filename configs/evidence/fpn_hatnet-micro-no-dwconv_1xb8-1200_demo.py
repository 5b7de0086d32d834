# The pure transformer of Sec. 4.4, without depthwise convolutions.
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

model = dict(
    backbone=dict(
        dw_conv=False,
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
    )
)
