# DeiT's augmentations: RandAugment 9/0.5 and random erasing 0.25. Its colour
# jitter of 0.4 takes effect only without RandAugment, so it is not here.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128)
