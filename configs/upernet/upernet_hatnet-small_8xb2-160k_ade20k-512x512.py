_base_ = [
    '../_base_/import_mmhatnet.py',
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
        type='mmhatnet.HATNet',
        arch='small',
        # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
        grid_sizes=(8, 8, 8),
        ds_ratios=(16, 8, 4),
        # As in mmsegmentation's config with Swin-T.
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://small'),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=150),
    auxiliary_head=dict(in_channels=320, num_classes=150),
)
# Save as often as it evaluates.
default_hooks = dict(checkpoint=dict(interval=16000))
