# A segmentor of the demo data, small enough for a CPU and for the package:
# without the last stage, which has half of the parameters. Its backbone is
# pretrained on CIFAR-10. The stem has its usual stride, with the same weights.
_base_ = ['../import_mmhatnet.py', 'mmseg::_base_/models/fpn_r50.py']

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        _delete_=True,
        type='mmhatnet.HATNet',
        arch='micro',
        grid_sizes=(8, 8, 8),
        # The maps are as small as in classification, so use its G2.
        ds_ratios=(8, 4, 2),
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained', checkpoint='hatnet://cifar10-classifier'
        ),
        out_indices=(0, 1, 2),
    ),
    neck=dict(in_channels=[32, 64, 128], out_channels=64, num_outs=3),
    decode_head=dict(
        feature_strides=[4, 8, 16],
        in_channels=[64] * 3,
        in_index=[0, 1, 2],
        channels=64,
        num_classes=7,
    ),
)
