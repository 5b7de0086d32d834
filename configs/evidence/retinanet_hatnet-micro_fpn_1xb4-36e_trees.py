# A detector of tree crowns.
_base_ = [
    '../_base_/models/retinanet_hatnet-micro_fpn.py',
    '../_base_/datasets/tree_crowns.py',
    '../_base_/schedules/tree_crowns_muon_36e.py',
    '../_base_/mmdet_runtime.py',
]

# One photograph is little: dropped paths, and images of very different sizes,
# keep the detector from learning it by heart.
model = dict(
    backbone=dict(drop_path_rate=0.1),
    bbox_head=dict(
        num_classes=1,
        reg_decoded_bbox=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
)
default_hooks = dict(logger=dict(interval=10))
