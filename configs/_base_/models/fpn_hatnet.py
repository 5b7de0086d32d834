# Semantic FPN with HAT-Net-Tiny, for the 150 classes of ADE20K.
_base_ = ['../hatnet_dense.py', 'mmseg::_base_/models/fpn_r50.py']

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://tiny'),
        **_base_.hatnet,
    ),
    neck=dict(in_channels=[48, 96, 240, 384]),
    decode_head=dict(num_classes=150),
)
