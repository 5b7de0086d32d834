_base_ = './hatnet-tiny_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='medium', drop_path_rate=0.3),
    head=dict(in_channels=512),
)
# PVT clips gradients where its drop path rate is 0.3.
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
