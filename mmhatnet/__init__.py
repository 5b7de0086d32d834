"""HAT-Net (Vision Transformers with Hierarchical Attention) for OpenMMLab."""

from .operators import install_operators
from .utils.moved import support_old_names
from .utils.stack import check_versions, register_configs
from .version import __version__

check_versions()
register_configs()
install_operators()
support_old_names()

# These imports come after the check, whose error names what to install.
# Importing releases registers the names and URLs of the authors' files.
from .apis import get_inferencer, get_model, list_models  # noqa: E402
from .utils.config import support_inheritance  # noqa: E402
from .weights import releases as releases  # noqa: E402

support_inheritance()

__all__ = ['__version__', 'get_inferencer', 'get_model', 'list_models']
