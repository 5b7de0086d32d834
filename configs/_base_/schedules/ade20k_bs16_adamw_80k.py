# From Sec. 4.2 of the paper: AdamW, lr 1e-4, weight decay 1e-4, batch 16, poly
# with power 0.9. The paper follows the settings of PVT, from which we take the
# rest: 80k iterations, a final lr of 0, no warm-up, no clipping.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, end=80000, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
