"""HAT-Net (Vision Transformers with Hierarchical Attention) for OpenMMLab."""

from .stack import check_versions
from .version import __version__

check_versions()

__all__ = ['__version__']
