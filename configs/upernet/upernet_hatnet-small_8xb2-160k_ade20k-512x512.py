_base_ = [
    '../_base_/hatnet_dense.py',
    'mmseg::_base_/models/upernet_r50.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_bs16_adamw_160k.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://small'),
        **_base_.hatnet,
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=150),
    auxiliary_head=dict(in_channels=320, num_classes=150),
)
