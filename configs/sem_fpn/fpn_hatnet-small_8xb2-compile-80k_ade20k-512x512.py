_base_ = [
    '../_base_/models/fpn_hatnet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_bs16_adamw_80k.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint='hatnet://small')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# mmengine compiles the training step.
compile = True
