# DeiT's recipe, with 10 epochs instead of 300, in bfloat16; a CPU without
# instructions for it trains in float32. HAT-Net needs about the rate of the
# paper, 1e-3 for 1024 images: at four times that it learned more slowly, and
# at 12 times it diverged.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=3e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-2, end=1, convert_to_iter_based=True
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=3e-6,
        begin=1,
        end=10,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=2)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=256)
