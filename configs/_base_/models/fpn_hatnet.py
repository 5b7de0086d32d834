# Semantic FPN with HAT-Net-Tiny, for the 150 classes of ADE20K.
_base_ = ['../import_mmhatnet.py', 'mmseg::_base_/models/fpn_r50.py']

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='mmhatnet.HATNet',
        arch='tiny',
        # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
        grid_sizes=(8, 8, 8),
        ds_ratios=(16, 8, 4),
        # Not published. The paper follows the settings of PVT, which has 0.1.
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://tiny'),
    ),
    neck=dict(in_channels=[48, 96, 240, 384]),
    decode_head=dict(num_classes=150),
)
