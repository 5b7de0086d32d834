# CIFAR-10, 32x32 pixels; made by tools/dataset_converters/cifar10.py.
data_preprocessor = dict(
    num_classes=10,
    mean=[125.3, 123.0, 113.9],
    std=[63.0, 62.1, 66.7],
    to_rgb=True,
)
train_dataloader = dict(
    batch_size=256,
    num_workers=1,
    persistent_workers=True,
    # Stack images here: one by one, this takes longer than a step on a GPU.
    collate_fn=dict(type='default_collate'),
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root='data/cifar10/train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='RandomCrop',
                crop_size=32,
                padding=4,
                padding_mode='reflect',
            ),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root='data/cifar10/test',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=32, interpolation='bicubic'),
            dict(type='PackInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
