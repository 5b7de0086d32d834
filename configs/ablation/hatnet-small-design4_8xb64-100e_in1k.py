# Design 4 of Table 5, and the base of the other ablations: HAT-Net-Small with
# 100 epochs, half the batch size and half the learning rate (Sec. 4.4).
_base_ = '../hatnet/hatnet-small_8xb128_in1k.py'

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-3, end=5, convert_to_iter_based=True
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5, end=100),
]
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=512)
