_base_ = [
    '../_base_/models/mask-rcnn_hatnet_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_bs16_adamw_1x.py',
    '../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint='hatnet://small')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# Automatic mixed precision, as with tools/train.py --amp.
optim_wrapper = dict(type='AmpOptimWrapper')
