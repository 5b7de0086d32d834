_base_ = ['../hatnet_dense.py', 'mmdet::_base_/models/mask-rcnn_r50_fpn.py']

model = dict(
    backbone=dict(
        _delete_=True,
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://tiny'),
        **_base_.hatnet,
    ),
    neck=dict(in_channels=[48, 96, 240, 384]),
)
