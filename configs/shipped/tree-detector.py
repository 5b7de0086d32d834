# Tree crowns in aerial photographs; its weights are in the package.
_base_ = [
    '../evidence/retinanet_hatnet-micro_fpn_1xb4-36e_trees.py',
    'mmdet::retinanet/retinanet_tta.py',
]

# A photograph can show hundreds of crowns; the training kept 100 in its tests.
model = dict(test_cfg=dict(max_per_img=1000))
# For tools/test.py --tta: twelve views of an image.
tta_model = dict(tta_cfg=dict(max_per_img=1000))
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[:2] = [
    [dict(type='Resize', scale_factor=factor) for factor in (1.0, 1.5, 2.0)],
    [
        dict(type='RandomFlip', prob=0.0),
        dict(type='RandomFlip', prob=1.0, direction='horizontal'),
        dict(type='RandomFlip', prob=1.0, direction='vertical'),
        dict(type='RandomFlip', prob=1.0, direction='diagonal'),
    ],
]
