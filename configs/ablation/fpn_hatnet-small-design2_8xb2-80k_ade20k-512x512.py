# Design 2 of Table 5. It starts from the classifier with the same design. The
# paper does not state the schedule of these trainings; it is that of Table 3.
_base_ = '../sem_fpn/fpn_hatnet-small_8xb2-80k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attn_types=('h-mhsa', 'window', 'window'),
        init_cfg=dict(
            checkpoint='work_dirs/hatnet-small-design2_8xb64-100e_in1k/'
            'epoch_100.pth'
        ),
    )
)
