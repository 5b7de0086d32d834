# Design 3 of Table 5: H-MHSA in stages 0 and 1, window attention in stage 2.
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

model = dict(
    backbone=dict(
        attn_types=('h-mhsa', 'h-mhsa', 'window'),
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
    )
)
