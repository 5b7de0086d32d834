_base_ = './upernet_hatnet-small_8xb2-160k_ade20k-512x512.py'

# The learning rate is multiplied by this factor at each block, from the head
# to the stem.
optim_wrapper = dict(
    constructor='mmhatnet.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
