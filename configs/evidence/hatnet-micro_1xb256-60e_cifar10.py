# The same model for 60 epochs, with CutMix in half of the batches and the rate
# that was better at ten epochs, with one seed.
_base_ = './hatnet-micro_1xb256-10e_cifar10.py'

model = dict(
    train_cfg=dict(
        _delete_=True,
        augments=[dict(type='CutMix', alpha=1.0)],
        probs=[0.5],
    )
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-2, end=1, convert_to_iter_based=True
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        begin=1,
        end=60,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=60, val_interval=5)
