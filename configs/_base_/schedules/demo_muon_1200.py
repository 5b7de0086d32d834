# As demo_muon_400.py, for longer.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='mmhatnet.Muon', lr=4e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=20, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=20, end=1200, by_epoch=False),
]
# The tests use a running mean of the weights, over about 100 iterations.
custom_hooks = [dict(type='EMAHook', momentum=0.01)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1200, val_interval=300)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=8)
