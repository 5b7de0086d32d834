# The pure transformer of Sec. 4.4, without depthwise convolutions.
_base_ = 'hatnet-micro_1xb256-2e_cifar10.py'

model = dict(backbone=dict(dw_conv=False))
