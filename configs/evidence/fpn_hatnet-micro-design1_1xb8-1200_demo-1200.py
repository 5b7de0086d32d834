# Design 1 of Table 5: window attention in stages 0 to 2, H-MHSA in none.
_base_ = 'fpn_hatnet-micro-scratch_1xb8-1200_demo-1200.py'

model = dict(backbone=dict(attn_types=('window', 'window', 'window')))
