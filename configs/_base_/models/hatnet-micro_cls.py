# A classifier of CIFAR-10's 32x32 images. With 2.5 M parameters, it is small
# enough to train on a CPU.
_base_ = 'hatnet_cls.py'

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
