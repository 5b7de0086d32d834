# A segmentor of shapes on photographs, small enough for a CPU.
_base_ = '../demo/fpn_hatnet-tiny_2xb4-400_demo.py'

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
