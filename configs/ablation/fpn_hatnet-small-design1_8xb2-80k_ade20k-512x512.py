# Design 1 of Table 5. It starts from the classifier with the same design.
_base_ = '../sem_fpn/fpn_hatnet-small_8xb2-80k_ade20k-512x512.py'

design = 'hatnet-small-design1_8xb64-100e_in1k'
model = dict(
    backbone=dict(
        attn_types=('window', 'window', 'window'),
        init_cfg=dict(checkpoint=f'work_dirs/{design}/epoch_100.pth'),
    )
)
