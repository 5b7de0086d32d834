# One set of weights for several G1, G2 and sizes of images.
_base_ = 'hatnet-micro_1xb256-10e_cifar10.py'

custom_hooks = [
    dict(type='EMAHook', momentum=0.01),
    dict(
        type='mmhatnet.ElasticGridsHook',
        grid_sizes=[(2, 2, 2), (4, 4, 4), (8, 4, 4), (16, 8, 4)],
        ds_ratios=[(8, 4, 2), (4, 2, 1), (2, 1, 1)],
        scales=[0.75, 1.0, 1.25],
    ),
]
