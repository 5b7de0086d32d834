# A classifier on the demo data, from scratch, in minutes on two cores.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    '../_base_/datasets/demo_imagenet.py',
    '../_base_/schedules/demo_adamw_6e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    backbone=dict(
        drop_path_rate=0.0, init_cfg=dict(type='mmhatnet.FanOutInit')
    ),
    head=dict(num_classes=6, topk=1),
    # No Mixup and CutMix: mixtures of such small crops are hard to learn.
    train_cfg=None,
)
default_hooks = dict(logger=dict(interval=10))
auto_scale_lr = dict(base_batch_size=32)
