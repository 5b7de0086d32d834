# Importing mmhatnet makes 'mmseg::' work in the bases that follow this one,
# with both families of packages and in every tool that reads the config, and
# gives mmcv operators before mmdet looks for them.
__import__('mmhatnet')
