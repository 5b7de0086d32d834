"""mmcv's operators without compiling: torchvision's and plain torch.

``mmcv.ops`` is Python over one compiled module, ``mmcv._ext``. If the
installed mmcv lacks it, Python finds :mod:`.ext` under its name. The
environment variable ``MMHATNET_OPERATORS`` forces one of the two.
"""

import os
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

VARIABLE = 'MMHATNET_OPERATORS'
CHOICES = 'torchvision', 'mmcv'
NAME = 'mmcv._ext'
FILE = Path(__file__).with_name('ext.py')
# When they are imported, these import mmcv.ops, or continue without it.
USERS = 'mmdet.structures', 'mmdet.models', 'mmseg.models'


class Finder:
    """Finds our operators under the name of mmcv's, and nothing else."""

    @staticmethod
    def find_spec(name: str, *args: object) -> ModuleSpec | None:
        """Find our operators, as Python's import system asks; else None."""
        return spec_from_file_location(name, FILE) if name == NAME else None


def install_operators() -> None:
    """Let ``mmcv.ops`` find operators, without importing them.

    Raises:
        ImportError: If the user chose torchvision's, but mmcv's are in use.
        ValueError: If the environment variable has another value.
    """
    choice = os.environ.get(VARIABLE, '')
    if choice not in ('', *CHOICES):
        raise ValueError(
            f'{VARIABLE}={choice} is neither {" nor ".join(CHOICES)}'
        )
    if choice == 'mmcv' or Finder in sys.meta_path:
        return
    late = next(filter(sys.modules.__contains__, (NAME, *USERS)), '')
    if choice == 'torchvision' and late:
        raise ImportError(
            f'{VARIABLE}={choice} comes too late, after {late}: import '
            'mmhatnet first, or start the program with python -m '
            'mmhatnet.operators'
        )
    if late.startswith('mmdet') and not find_spec(NAME):
        warnings.warn(
            f'{late} has no operators of mmcv: import mmhatnet before it',
            stacklevel=3,
        )
    # Python asks one after the other, so the last is asked if no other finds
    # it.
    sys.meta_path.insert(0 if choice else len(sys.meta_path), Finder)


def describe_operators() -> str:
    """Say which operators mmcv.ops uses: 'torchvision', 'mmcv' or 'none'."""
    try:
        spec = find_spec(NAME)
    except ModuleNotFoundError:  # no mmcv at all
        spec = None
    if not spec:
        return 'none'
    return 'torchvision' if spec.origin == str(FILE) else 'mmcv'
