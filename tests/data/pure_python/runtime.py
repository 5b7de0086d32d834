# What the segmentor and the detector share, with classes as types.
from mmengine.dataset import DefaultSampler
from mmengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
)
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from mmhatnet.models import HATNet

backbone = dict(
    type=HATNet,
    arch=dict(
        embed_dims=(8, 16, 16, 24),
        depths=(1, 1, 1, 1),
        kernel_sizes=(3, 5, 3, 3),
        expansions=(2, 3, 2, 2),
        head_dim=8,
    ),
)
loader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    dtype='float16',
    optimizer=dict(type=AdamW, lr=1e-4),
)
param_scheduler = [
    dict(type=CosineAnnealingLR, T_max=1, convert_to_iter_based=True)
]
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=1),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
default_scope = None
