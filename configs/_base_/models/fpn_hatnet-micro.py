# A segmentor that is small enough for a CPU and for the package: without the
# last stage, which has half of the parameters. Its backbone is pretrained on
# CIFAR-10. The stem has its usual stride, with the same weights.
_base_ = 'fpn_hatnet.py'

model = dict(
    backbone=dict(
        arch='micro',
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='hatnet://cifar10-classifier'),
    ),
    neck=dict(in_channels=[32, 64, 128], out_channels=64, num_outs=3),
    decode_head=dict(
        feature_strides=[4, 8, 16],
        in_channels=[64] * 3,
        in_index=[0, 1, 2],
        channels=64,
    ),
)
