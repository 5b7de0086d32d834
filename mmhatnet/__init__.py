"""HAT-Net (Vision Transformers with Hierarchical Attention) for OpenMMLab."""

from .stack import check_versions, register_configs
from .version import __version__

check_versions()
register_configs()

__all__ = ['__version__']
