# GELU instead of SiLU (Sec. 4.4). It starts from the classifier with GELU.
_base_ = '../sem_fpn/fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py'

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
