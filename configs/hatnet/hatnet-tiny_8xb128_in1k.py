# The data set's base has DeiT's augmentations: RandAugment 9/0.5 and random
# erasing 0.25. DeiT's colour jitter of 0.4 takes effect only without
# RandAugment, so it is not here.
_base_ = [
    '../_base_/models/hatnet_cls.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    'mmpretrain::_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=128)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
