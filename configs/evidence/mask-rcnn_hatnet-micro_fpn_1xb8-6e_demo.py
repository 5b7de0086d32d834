# An instance segmentor of shapes on photographs.
_base_ = '../demo/mask-rcnn_hatnet-tiny_fpn_2xb4-6e_demo.py'

model = dict(
    backbone=dict(
        arch='micro',
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='hatnet://cifar10-classifier',
        ),
    ),
    neck=dict(in_channels=[32, 64, 128, 192]),
)
train_dataloader = dict(batch_size=8)
