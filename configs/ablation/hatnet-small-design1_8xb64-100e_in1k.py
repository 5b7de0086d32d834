# Design 1 of Table 5: H-MHSA in no stage, window attention in all.
_base_ = './hatnet-small-design4_8xb64-100e_in1k.py'

model = dict(backbone=dict(attn_types=('window', 'window', 'window')))
