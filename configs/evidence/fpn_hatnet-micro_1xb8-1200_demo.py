# A segmentor of shapes on photographs, with a backbone pretrained on CIFAR-10.
# It is small enough for a CPU and for the package: without the last stage,
# which has half of the parameters. The stem has its usual stride, with the
# same weights.
_base_ = [
    '../_base_/models/fpn_hatnet.py',
    '../_base_/datasets/demo_semantic.py',
    '../_base_/schedules/demo_muon_1200.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch='micro',
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        # The maps are as small as in classification, so use its G2.
        ds_ratios=(8, 4, 2),
        init_cfg=dict(checkpoint='hatnet://cifar10-classifier'),
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
train_dataloader = dict(batch_size=8)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=10))
visualizer = dict(alpha=0.5)
