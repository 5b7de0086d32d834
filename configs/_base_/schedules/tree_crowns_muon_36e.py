# As cifar10_muon_10e.py, for longer, with clipped gradients.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='mmhatnet.Muon', lr=4e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=50, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=36,
        end=36,
        eta_min=0.0,
        convert_to_iter_based=True,
    ),
]
# The tests use a running mean of the weights, over about 100 iterations.
custom_hooks = [dict(type='EMAHook', momentum=0.01)]
train_cfg = dict(by_epoch=True, max_epochs=36, val_interval=6)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=4)
