# Design 3 of Table 5: H-MHSA in stages 0 and 1, window attention in stage 2.
_base_ = 'fpn_hatnet-micro-scratch_1xb8-1200_demo-1200.py'

model = dict(backbone=dict(attn_types=('h-mhsa', 'h-mhsa', 'window')))
