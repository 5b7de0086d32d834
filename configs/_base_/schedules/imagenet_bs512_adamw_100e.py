# From Sec. 4.4 of the paper: 100 epochs with half the batch size and half the
# learning rate; the rest as in 300 epochs.
_base_ = './imagenet_bs1024_adamw_300e.py'

optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-3, end=5, convert_to_iter_based=True
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5, end=100),
]
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=512)
