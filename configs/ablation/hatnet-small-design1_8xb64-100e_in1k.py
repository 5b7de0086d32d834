# Design 1 of Table 5: window attention in stages 0 to 2, H-MHSA in none.
_base_ = './hatnet-small-design4_8xb64-100e_in1k.py'

model = dict(backbone=dict(attn_types=('window', 'window', 'window')))
