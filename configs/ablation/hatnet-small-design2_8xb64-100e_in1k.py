# Design 2 of Table 5: H-MHSA in stage 0, window attention in stages 1 and 2.
_base_ = './hatnet-small-design4_8xb64-100e_in1k.py'

model = dict(backbone=dict(attn_types=('h-mhsa', 'window', 'window')))
