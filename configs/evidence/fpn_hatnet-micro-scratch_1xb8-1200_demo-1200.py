# From random weights, for comparisons: on 1,200 scenes, each seen eight times
# in other colors, so that less depends on the seed; tested on 300 scenes.
_base_ = [
    '../_base_/models/fpn_hatnet-micro.py',
    '../_base_/datasets/demo_semantic.py',
    '../_base_/schedules/demo_muon_1200.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'))
)
dataset = dict(data_root='data/demo-1200/ade/ADEChallengeData2016')
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomCrop', crop_size=(128, 128)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        **dataset,
    ),
)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=10))
