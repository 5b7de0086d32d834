# A trained segmentor learns several G2 and sizes in a tenth of its iterations,
# with larger images, for which G2 changes the time.
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

load_from = 'hatnet://shape-segmentor'
model = dict(data_preprocessor=dict(size=(384, 384)))
enlarge = dict(type='Resize', scale_factor=3.0, keep_ratio=True)
annotations = dict(type='LoadAnnotations', reduce_zero_label=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    enlarge,
    annotations,  # are compared at their own size
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            annotations,
            enlarge,
            dict(type='RandomCrop', crop_size=(384, 384)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
custom_hooks = [
    dict(type='EMAHook', momentum=0.05),
    dict(
        type='mmhatnet.ElasticGridsHook',
        ds_ratios=[(4, 2, 1), (8, 4, 2), (16, 8, 4), (32, 16, 8)],
        scales=[0.5, 0.75, 1.0],
    ),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=20, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=20, end=120, by_epoch=False),
]
train_cfg = dict(max_iters=120, val_interval=120)
auto_scale_lr = dict(base_batch_size=2)
