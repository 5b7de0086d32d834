# HAT-Net with 2.5 M parameters, small enough to train on a CPU.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/cifar10_32x32.py',
    '../_base_/schedules/cifar10_muon_10e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(
        arch='micro',
        stem_stride=2,
        # As at 224x224, G2 leaves the same tokens in each stage: 4x4.
        grid_sizes=(8, 4, 4),
        ds_ratios=(4, 2, 1),
        drop_path_rate=0.0,
        init_cfg=dict(type='mmhatnet.FanOutInit'),
    ),
    head=dict(num_classes=10, in_channels=192, drop_rate=0.0, topk=(1,)),
    # No Mixup and CutMix: a short training does not fit even the plain images.
    train_cfg=None,
)
