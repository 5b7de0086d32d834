# Tree crowns in aerial photographs; its weights are in the package.
_base_ = '../evidence/retinanet_hatnet-micro_fpn_1xb4-36e_trees.py'

# A photograph can have hundreds of them; the training was tested with 100.
model = dict(test_cfg=dict(max_per_img=1000))
