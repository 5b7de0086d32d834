_base_ = './upernet_hatnet-small_8xb2-160k_ade20k-512x512.py'

# From head to stem, the learning rate falls by this factor at each block.
optim_wrapper = dict(
    constructor='mmhatnet.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
