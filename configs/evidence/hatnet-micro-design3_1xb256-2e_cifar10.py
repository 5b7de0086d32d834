# Design 3 of Table 5: H-MHSA in stages 0 and 1, window attention in stage 2.
_base_ = 'hatnet-micro_1xb256-2e_cifar10.py'

model = dict(backbone=dict(attn_types=('h-mhsa', 'h-mhsa', 'window')))
