# ResNet-18 with 36 channels instead of 64, about the operations of
# hatnet-micro.
_base_ = './hatnet-micro_1xb256-10e_cifar10.py'

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
