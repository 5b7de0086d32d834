# One set of weights for several G1, G2 and sizes of images.
_base_ = 'fpn_hatnet-micro_1xb8-1200_demo.py'

custom_hooks = [
    dict(type='EMAHook', momentum=0.01),
    dict(
        type='mmhatnet.ElasticGridsHook',
        grid_sizes=[(4, 4, 4), (8, 8, 8), (16, 16, 8)],
        ds_ratios=[(4, 2, 1), (8, 4, 2), (16, 8, 4)],
        scales=[0.75, 1.0, 1.25],
    ),
]
