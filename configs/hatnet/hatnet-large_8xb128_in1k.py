_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.3),
    head=dict(in_channels=640),
)
# PVT clips gradients where its drop path rate is 0.3.
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
