# Demo data in the layout of ADE20K, 192x160 pixels. Made by
# tools/dataset_converters/make_demo_data.py.
metainfo = dict(
    classes=(
        'background',
        'disk',
        'square',
        'triangle',
        'star',
        'ring',
        'cross',
    ),
    palette=[
        (0, 0, 0),
        (230, 60, 50),
        (150, 150, 150),
        (170, 110, 40),
        (70, 80, 220),
        (60, 180, 75),
        (255, 225, 25),
    ],
)
dataset = dict(
    type='BaseSegDataset',
    data_root='data/demo/ade/ADEChallengeData2016',
    metainfo=metainfo,
    reduce_zero_label=True,
)
annotations = dict(type='LoadAnnotations', reduce_zero_label=True)
# Also for mmseg.apis.inference_model, which reads this name.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    annotations,
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
        pipeline=[
            dict(type='LoadImageFromFile'),
            annotations,
            dict(type='RandomCrop', crop_size=(128, 128)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(
            img_path='images/validation', seg_map_path='annotations/validation'
        ),
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
