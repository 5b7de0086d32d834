# From Sec. 4.1 of the paper: AdamW, lr 1e-3 at batch 1024, weight decay 0.05,
# cosine, 300 epochs. The paper follows the protocol of DeiT, from which we
# take the rest: 5 epochs of warm-up, a final lr of 1e-5, no weight decay on
# norms and biases, no clipping, and mixed precision;
# optim_wrapper.type=OptimWrapper trains in float32.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-3, end=5, convert_to_iter_based=True
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5, end=300),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=1024)
