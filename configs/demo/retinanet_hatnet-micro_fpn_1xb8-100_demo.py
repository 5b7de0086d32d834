# A detector that learns the shapes of the demo data in few iterations, with
# the backbone of the CIFAR-10 classifier.
_base_ = [
    '../_base_/models/retinanet_hatnet-micro_fpn.py',
    '../_base_/datasets/demo_instance.py',
    '../_base_/schedules/demo_muon_400.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    # The maps are as small as in classification, so use its G2.
    backbone=dict(ds_ratios=(8, 4, 2)),
    bbox_head=dict(num_classes=6, anchor_generator=dict(octave_base_scale=3)),
)
train_dataloader = dict(batch_size=8)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=20, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=20, end=100, by_epoch=False),
]
custom_hooks = [dict(type='EMAHook', momentum=0.05)]
train_cfg = dict(max_iters=100, val_interval=100)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=50),
    logger=dict(interval=10, log_metric_by_epoch=False),
)
log_processor = dict(by_epoch=False)
