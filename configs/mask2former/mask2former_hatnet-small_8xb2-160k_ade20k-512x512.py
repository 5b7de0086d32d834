_base_ = [
    '../_base_/hatnet_dense.py',
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://small'),
        **_base_.hatnet,
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
