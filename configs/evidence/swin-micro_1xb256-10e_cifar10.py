# Swin-T with 32 channels instead of 96 and windows for the small images, about
# the operations of hatnet-micro.
_base_ = './hatnet-micro_1xb256-10e_cifar10.py'

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
