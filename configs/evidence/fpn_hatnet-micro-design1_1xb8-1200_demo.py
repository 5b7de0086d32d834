# Design 1 of Table 5: window attention in stages 0 to 2, H-MHSA in none.
_base_ = [
    '../_base_/models/fpn_hatnet-micro.py',
    '../_base_/datasets/demo_semantic.py',
    '../_base_/schedules/demo_muon_1200.py',
    '../_base_/mmseg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        # The maps are as small as in classification, so use its G2.
        ds_ratios=(8, 4, 2),
        attn_types=('window', 'window', 'window'),
        init_cfg=dict(_delete_=True, type='mmhatnet.FanOutInit'),
    ),
    decode_head=dict(num_classes=7),
)
train_dataloader = dict(batch_size=8)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=10))
visualizer = dict(alpha=0.5)
