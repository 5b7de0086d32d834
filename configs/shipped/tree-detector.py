# Tree crowns in aerial photographs; its weights are in the package.
_base_ = '../evidence/retinanet_hatnet-micro_fpn_1xb4-36e_trees.py'

# A photograph can show hundreds of crowns; the training kept 100 in its tests.
model = dict(test_cfg=dict(max_per_img=1000))
