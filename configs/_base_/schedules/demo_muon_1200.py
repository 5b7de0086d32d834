_base_ = 'demo_muon_400.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=20, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=20, end=1200, by_epoch=False),
]
# The tests use a running mean of the weights, over about 100 iterations.
custom_hooks = [dict(type='EMAHook', momentum=0.01)]
train_cfg = dict(max_iters=1200, val_interval=300)
