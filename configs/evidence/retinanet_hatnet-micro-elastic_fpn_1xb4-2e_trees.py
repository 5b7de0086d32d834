# A trained detector learns several G2 and sizes, in less than a tenth of its
# schedule.
_base_ = [
    '../_base_/models/retinanet_hatnet-micro_fpn.py',
    '../_base_/datasets/tree_crowns.py',
    '../_base_/schedules/tree_crowns_muon_36e.py',
    '../_base_/mmdet_runtime.py',
]

load_from = 'hatnet://tree-detector'
model = dict(bbox_head=dict(num_classes=1))
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [
    dict(type='EMAHook', momentum=0.05),
    dict(
        type='mmhatnet.ElasticGridsHook',
        ds_ratios=[(4, 2, 1), (8, 4, 2), (16, 8, 4), (32, 16, 8)],
    ),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=20, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=2,
        end=2,
        eta_min=0.0,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=2, val_interval=2)
