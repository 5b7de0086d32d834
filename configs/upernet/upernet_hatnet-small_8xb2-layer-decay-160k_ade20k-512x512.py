_base_ = [
    '../_base_/models/upernet_hatnet-small.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_bs16_adamw_160k.py',
    '../_base_/mmseg_runtime.py',
]

# The learning rate is multiplied by this factor at each block, from the head
# to the stem.
optim_wrapper = dict(
    constructor='mmhatnet.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
# Save as often as it evaluates.
default_hooks = dict(checkpoint=dict(interval=16000))
