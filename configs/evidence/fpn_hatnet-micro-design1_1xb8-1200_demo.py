# Design 1 of Table 5: window attention in stages 0 to 2, H-MHSA in none.
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

model = dict(
    backbone=dict(
        attn_types=('window', 'window', 'window'),
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
    )
)
