# GELU instead of SiLU (Sec. 4.4). It starts from the classifier with GELU.
_base_ = [
    '../_base_/models/fpn_hatnet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_bs16_adamw_80k.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    backbone=dict(
        arch='small',
        act_cfg=dict(type='GELU'),
        init_cfg=dict(
            checkpoint='work_dirs/hatnet-small-gelu_8xb128_in1k/epoch_300.pth'
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
