# HAT-Net for dense prediction: what every segmentor and detector here shares.

# With mmhatnet imported, 'mmseg::' among the bases after this one finds the
# installed mmsegmentation, of either stack, whoever reads the config.
__import__('mmhatnet')

hatnet = dict(
    type='mmhatnet.HATNet',
    out_indices=(0, 1, 2, 3),
    # G1 and G2 of the paper's dense prediction (Sec. 4.2 and 4.3)
    grid_sizes=(8, 8, 8),
    ds_ratios=(16, 8, 4),
    # Not published. PVT, whose settings the paper follows, has 0.1 at all
    # sizes in mmdetection.
    drop_path_rate=0.1,
)
