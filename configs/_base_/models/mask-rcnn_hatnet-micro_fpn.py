# An instance segmentor that is small enough for a CPU, with a backbone
# pretrained on CIFAR-10 and fewer proposals than in mmdetection.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmhatnet.HATNet',
        arch='micro',
        # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
        grid_sizes=(8, 8, 8),
        ds_ratios=(16, 8, 4),
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained', checkpoint='hatnet://cifar10-classifier'
        ),
    ),
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(max_per_img=200)),
)
