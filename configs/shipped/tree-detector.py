# Tree crowns in aerial photographs; its weights are in the package.
_base_ = '../evidence/retinanet_hatnet-micro_fpn_1xb4-36e_trees.py'
