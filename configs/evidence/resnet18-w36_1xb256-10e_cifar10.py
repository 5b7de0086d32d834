# ResNet-18 with 36 channels instead of 64, about the operations of
# hatnet-micro.
_base_ = [
    '../_base_/models/hatnet-micro_cls.py',
    '../_base_/datasets/cifar10_32x32.py',
    '../_base_/schedules/cifar10_muon_10e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=36,
        base_channels=36,
        expansion=1,
        strides=(2, 2, 2, 2),
    ),
    head=dict(in_channels=288),
)
# The best rate of the search over two epochs.
optim_wrapper = dict(optimizer=dict(lr=8e-3))
