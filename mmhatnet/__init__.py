"""HAT-Net (Vision Transformers with Hierarchical Attention) for OpenMMLab."""

from .operators import install_operators
from .stack import check_versions, register_configs
from .version import __version__

check_versions()
register_configs()
install_operators()

# These imports come after the check, whose error names what to install.
# Importing releases registers the names and URLs of the authors' files.
from . import releases  # noqa: E402, F401
from .config import support_inheritance  # noqa: E402
from .inference import get_inferencer  # noqa: E402
from .zoo import get_model, list_models  # noqa: E402

support_inheritance()

__all__ = ['__version__', 'get_inferencer', 'get_model', 'list_models']
