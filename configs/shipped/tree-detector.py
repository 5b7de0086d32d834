# Tree crowns in aerial photographs; its weights are in the package.
_base_ = [
    '../_base_/models/retinanet_hatnet-micro_fpn.py',
    '../_base_/datasets/tree_crowns.py',
    '../_base_/schedules/tree_crowns_muon_36e.py',
    '../_base_/mmdet_short_runtime.py',
]

# A photograph can show hundreds of crowns; the training kept 100 in its tests.
model = dict(bbox_head=dict(num_classes=1), test_cfg=dict(max_per_img=1000))
