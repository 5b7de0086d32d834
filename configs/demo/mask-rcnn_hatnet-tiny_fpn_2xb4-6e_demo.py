# Mask R-CNN, from scratch in minutes on two cores.
_base_ = [
    '../_base_/models/mask-rcnn_hatnet_fpn.py',
    '../_base_/datasets/demo_instance.py',
    '../_base_/schedules/demo_adamw_6e.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    # Maps as small as in classification, hence its G2
    backbone=dict(init_cfg=None, drop_path_rate=0.0, ds_ratios=(8, 4, 2)),
    roi_head=dict(
        bbox_head=dict(num_classes=6), mask_head=dict(num_classes=6)
    ),
    # A quarter of mmdetection's samples: the images are small.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=128)),
    ),
)
default_hooks = dict(logger=dict(interval=10))
