# Design 1 of Table 5. It starts from the classifier with the same design. The
# paper does not state the schedule of these trainings; it is that of Table 3.
_base_ = [
    '../_base_/models/fpn_hatnet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_bs16_adamw_80k.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    backbone=dict(
        arch='small',
        attn_types=('window', 'window', 'window'),
        init_cfg=dict(
            checkpoint='work_dirs/hatnet-small-design1_8xb64-100e_in1k/'
            'epoch_100.pth'
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
