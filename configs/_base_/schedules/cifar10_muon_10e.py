# Muon for the matrices, AdamW for the rest (pip install 'timm>=1.0.21'), in
# bfloat16; a CPU without instructions for it trains in float32.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='mmhatnet.Muon', lr=4e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-2, end=1, convert_to_iter_based=True
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        begin=1,
        end=10,
        convert_to_iter_based=True,
    ),
]
# The tests use a running mean of the weights, over about 100 iterations.
custom_hooks = [dict(type='EMAHook', momentum=0.01)]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=2)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=256)
