# Importing mmhatnet makes 'mmseg::' work in the bases that follow this one,
# with both families of packages and in every tool that reads the config.
__import__('mmhatnet')
