# GELU instead of SiLU (Sec. 4.4). It starts from the classifier with GELU.
_base_ = '../sem_fpn/fpn_hatnet-small_8xb2-80k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        act_cfg=dict(type='GELU'),
        init_cfg=dict(
            checkpoint='work_dirs/hatnet-small-gelu_8xb128_in1k/epoch_300.pth'
        ),
    )
)
