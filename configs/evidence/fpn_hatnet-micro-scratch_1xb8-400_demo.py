# A segmentor of shapes on photographs, small enough for a CPU and for the
# package: without the last stage, which has half of the parameters. It starts
# from random weights.
_base_ = '../demo/fpn_hatnet-tiny_2xb4-400_demo.py'

model = dict(
    backbone=dict(arch='micro', out_indices=(0, 1, 2)),
    neck=dict(in_channels=[32, 64, 128], out_channels=64, num_outs=3),
    decode_head=dict(
        feature_strides=[4, 8, 16],
        in_channels=[64] * 3,
        in_index=[0, 1, 2],
        channels=64,
    ),
)
train_dataloader = dict(batch_size=8)
# Muon for the matrices, AdamW for the rest (pip install 'timm>=1.0.21').
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='timm.optim.Muon', lr=4e-3, weight_decay=0.05
    )
)
