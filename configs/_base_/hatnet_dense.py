# Settings of HAT-Net that all segmentors and detectors share.

# Importing mmhatnet makes 'mmseg::' work in the bases that follow this one,
# with both families of packages and in every tool that reads the config.
__import__('mmhatnet')

hatnet = dict(
    type='mmhatnet.HATNet',
    out_indices=(0, 1, 2, 3),
    # G1 and G2 of the paper for dense prediction (Sec. 4.2 and 4.3).
    grid_sizes=(8, 8, 8),
    ds_ratios=(16, 8, 4),
    # Not published. The paper follows the settings of PVT, which uses 0.1 for
    # all model sizes in mmdetection.
    drop_path_rate=0.1,
)
