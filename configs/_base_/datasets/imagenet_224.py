# DeiT's augmentations: RandAugment 9/0.5 and random erasing 0.25. Its colour
# jitter of 0.4 takes effect only without RandAugment, so it is not here.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128, persistent_workers=True)
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
