_base_ = './mask-rcnn_hatnet-small_fpn_8xb2-1x_coco.py'

# Automatic mixed precision, as with tools/train.py --amp.
optim_wrapper = dict(type='AmpOptimWrapper')
