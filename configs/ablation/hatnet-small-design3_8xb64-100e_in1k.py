# Design 3 of Table 5: H-MHSA in stages 0 and 1, window attention in stage 2.
_base_ = './hatnet-small-design4_8xb64-100e_in1k.py'

model = dict(backbone=dict(attn_types=('h-mhsa', 'h-mhsa', 'window')))
