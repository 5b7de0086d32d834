# Design 4 of Table 5 in miniature, and the base of the other ablations.
_base_ = 'hatnet-micro_1xb256-10e_cifar10.py'

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-2,
        end=0.4,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=3e-6,
        begin=0.4,
        end=2,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=2)
