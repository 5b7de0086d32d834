_base_ = './mask-rcnn_hatnet-large_fpn_8xb2-1x_coco.py'

# Activation checkpointing: less memory, slower training.
model = dict(backbone=dict(with_cp=True))
