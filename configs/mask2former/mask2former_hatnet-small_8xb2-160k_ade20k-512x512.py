_base_ = [
    '../_base_/import_mmhatnet.py',
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmhatnet.HATNet',
        arch='small',
        # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
        grid_sizes=(8, 8, 8),
        ds_ratios=(16, 8, 4),
        # As in mmsegmentation's config with Swin-T.
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='hatnet://small'),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
# The base has the key 'backbone', which would decay the backbone's norms.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            name: dict(lr_mult=0.1, decay_mult=0.0)
            for name in (
                'backbone.stem.1.',
                *(f'backbone.downsamples.{i}.1.' for i in range(3)),
                *('.attn.norm.', '.attn.grid_norm.', '.attn.pool_norm.'),
                *('.mlp.norm1.', '.mlp.norm2.'),
            )
        }
    )
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
