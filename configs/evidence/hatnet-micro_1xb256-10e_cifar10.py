# HAT-Net with 2.5 M parameters, at the size of images that it learns in hours
# on two cores.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/cifar10_64x64.py',
    '../_base_/schedules/cifar10_adamw_10e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(
        arch='micro',
        # As at 224x224, G2 leaves the same tokens in each stage: 4x4.
        grid_sizes=(8, 4, 4),
        ds_ratios=(4, 2, 1),
        drop_path_rate=0.05,
    ),
    head=dict(num_classes=10, in_channels=192, drop_rate=0.0, topk=(1,)),
    # In a third of the batches, since the training is short.
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.2),
            dict(type='CutMix', alpha=1.0),
        ],
        probs=[0.1, 0.2],
    ),
)
