# Design 1 of Table 5: window attention in stages 0 to 2, H-MHSA in none.
_base_ = 'hatnet-micro_1xb256-2e_cifar10.py'

model = dict(backbone=dict(attn_types=('window', 'window', 'window')))
