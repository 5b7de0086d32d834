_base_ = './fpn_hatnet-small_8xb2-80k_ade20k-512x512.py'

# mmengine compiles the training step.
compile = True
