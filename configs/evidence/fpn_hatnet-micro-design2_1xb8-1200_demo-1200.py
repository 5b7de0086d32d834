# Design 2 of Table 5: H-MHSA in stage 0, window attention in stages 1 and 2.
_base_ = 'fpn_hatnet-micro-scratch_1xb8-1200_demo-1200.py'

model = dict(backbone=dict(attn_types=('h-mhsa', 'window', 'window')))
