# The pure transformer of Sec. 4.4, without depthwise convolutions.
_base_ = './hatnet-small-design4_8xb64-100e_in1k.py'

model = dict(backbone=dict(dw_conv=False))
