# Design 2 of Table 5: H-MHSA in stage 0, window attention in stages 1 and 2.
_base_ = 'hatnet-micro_1xb256-2e_cifar10.py'

model = dict(backbone=dict(attn_types=('h-mhsa', 'window', 'window')))
