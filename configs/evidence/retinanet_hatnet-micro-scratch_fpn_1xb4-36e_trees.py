# From random weights, to measure the effect of pretraining.
_base_ = [
    '../_base_/models/retinanet_hatnet-micro_fpn.py',
    '../_base_/datasets/tree_crowns.py',
    '../_base_/schedules/tree_crowns_muon_36e.py',
    '../_base_/mmdet_short_runtime.py',
]

model = dict(
    backbone=dict(
        drop_path_rate=0.1,
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
    ),
    bbox_head=dict(
        num_classes=1,
        reg_decoded_bbox=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
)
