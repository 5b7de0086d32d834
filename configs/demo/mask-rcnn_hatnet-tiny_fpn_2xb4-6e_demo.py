# Mask R-CNN on the demo data, from scratch.
_base_ = [
    '../_base_/models/mask-rcnn_hatnet_fpn.py',
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
    roi_head=dict(
        bbox_head=dict(num_classes=6), mask_head=dict(num_classes=6)
    ),
    # Fewer proposals than in mmdetection, because a scene has 2 to 6 objects.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(max_per_img=100), rcnn=dict(max_per_img=20)),
)
default_hooks = dict(logger=dict(interval=10))
