# Swin-T with 32 channels instead of 96 and windows for the small images, about
# the operations of hatnet-micro.
_base_ = [
    '../_base_/models/hatnet-micro_cls.py',
    '../_base_/datasets/cifar10_32x32.py',
    '../_base_/schedules/cifar10_muon_10e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch=dict(embed_dims=32, depths=[2, 2, 6, 2], num_heads=[1, 2, 4, 8]),
        img_size=32,
        patch_size=2,
        window_size=4,
        pad_small_map=True,
        drop_path_rate=0.0,
    ),
    head=dict(in_channels=256),
)
