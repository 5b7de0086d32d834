# The augmentations of DeiT and PVT: RandAugment 9/0.5, random erasing 0.25 and
# repeated augmentation, three times by default. DeiT's colour jitter of 0.4
# has no effect together with RandAugment, so it is left out.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(
    batch_size=128,
    persistent_workers=True,
    sampler=dict(type='RepeatAugSampler'),
)
val_dataloader = dict(persistent_workers=True)
test_dataloader = dict(persistent_workers=True)

# For --tta.
tta_model = dict(type='AverageClsScoreTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='CenterCrop', crop_size=224),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0),
                dict(type='RandomFlip', prob=1.0),
            ],
            [dict(type='PackInputs')],
        ],
    ),
]
