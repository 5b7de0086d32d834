# HAT-Net-Tiny as an ImageNet classifier.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmhatnet.HATNet',
        arch='tiny',
        out_indices=(3,),
        # G1 and G2 of the paper for classification (Sec. 4.1).
        grid_sizes=(8, 7, 7),
        ds_ratios=(8, 4, 2),
        # Not published. The authors used the training script of PVT, which has
        # 0.1 for models like Tiny and Small, 0.3 for Medium and Large.
        drop_path_rate=0.1,
    ),
    head=dict(
        type='mmhatnet.HATNetClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
        ),
        topk=(1, 5),
    ),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
