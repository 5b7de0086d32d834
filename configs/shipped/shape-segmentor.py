# The shapes of the demo data; its weights are in the package.
_base_ = '../evidence/fpn_hatnet-micro_1xb8-1200_demo.py'
