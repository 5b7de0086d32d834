# The segmentor of shapes, with a backbone that knows CIFAR-10. The images are
# larger, so that the stem has its usual stride, with the same weights.
_base_ = 'fpn_hatnet-micro-scratch_1xb8-1200_demo.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='hatnet://cifar10-classifier',
        )
    )
)
