# PVTv2-B0, with about the operations of hatnet-micro.
_base_ = [
    '../_base_/models/hatnet-micro_cls.py',
    '../_base_/datasets/cifar10_32x32.py',
    '../_base_/schedules/cifar10_muon_10e.py',
    '../_base_/mmpretrain_runtime.py',
]

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
