# GELU instead of SiLU (Sec. 4.4). It starts from the classifier with GELU.
_base_ = '../sem_fpn/fpn_hatnet-small_8xb2-80k_ade20k-512x512.py'

gelu = 'hatnet-small-gelu_8xb128_in1k'
model = dict(
    backbone=dict(
        act_cfg=dict(type='GELU'),
        init_cfg=dict(checkpoint=f'work_dirs/{gelu}/epoch_300.pth'),
    )
)
