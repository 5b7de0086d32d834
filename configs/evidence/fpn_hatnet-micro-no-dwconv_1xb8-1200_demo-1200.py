# The pure transformer of Sec. 4.4, without depthwise convolutions.
_base_ = 'fpn_hatnet-micro-scratch_1xb8-1200_demo-1200.py'

model = dict(backbone=dict(dw_conv=False))
