# An instance segmentor of shapes on photographs, from random weights.
_base_ = [
    '../_base_/models/mask-rcnn_hatnet_fpn.py',
    '../_base_/datasets/demo_instance.py',
    '../_base_/schedules/demo_adamw_6e.py',
    '../_base_/mmdet_short_runtime.py',
]

model = dict(
    # The maps are as small as in classification, so use its G2.
    backbone=dict(
        arch='micro',
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
        drop_path_rate=0.0,
        ds_ratios=(8, 4, 2),
    ),
    neck=dict(in_channels=[32, 64, 128, 192]),
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
train_dataloader = dict(batch_size=8)
