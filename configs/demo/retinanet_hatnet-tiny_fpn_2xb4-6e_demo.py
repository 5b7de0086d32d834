# RetinaNet on the demo data, from scratch.
_base_ = [
    '../_base_/models/retinanet_hatnet_fpn.py',
    '../_base_/datasets/demo_instance.py',
    '../_base_/schedules/demo_adamw_6e.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    # The maps are as small as in classification, so use its G2.
    backbone=dict(
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
        drop_path_rate=0.0,
        ds_ratios=(8, 4, 2),
    ),
    bbox_head=dict(num_classes=6),
)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=10))
