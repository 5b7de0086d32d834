# PVTv2-B0, with about the operations of hatnet-micro.
_base_ = './hatnet-micro_1xb256-10e_cifar10.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.PyramidVisionTransformerV2',
        embed_dims=32,
        num_layers=[2, 2, 2, 2],
        strides=[2, 2, 2, 2],
        drop_path_rate=0.0,
    ),
    head=dict(in_channels=256),
)
