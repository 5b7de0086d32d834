"""The differences between the two families of packages.

The original packages (OpenMMLab) and their maintained forks (OneDL) install
the same modules, but their distributions have different names.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from threading import RLock

from packaging.version import Version

from .atomic import creating

# Family -> module -> (distribution, oldest version that works, newest tested).
FAMILIES = {
    'onedl': {
        'mmengine': ('onedl-mmengine', '0.10.12', '0.10.12'),
        'mmcv': ('onedl-mmcv', '2.3.6', '2.3.6'),
        'mmdet': ('onedl-mmdetection', '3.5.1', '3.5.1'),
        'mmseg': ('onedl-mmsegmentation', '1.4.2', '1.4.2'),
        'mmpretrain': ('onedl-mmpretrain', '1.3.6', '1.3.6'),
    },
    'openmmlab': {
        'mmengine': ('mmengine', '0.10.7', '0.10.7'),
        'mmcv': ('mmcv', '2.1.0', '2.1.0'),
        'mmdet': ('mmdet', '3.3.0', '3.3.0'),
        'mmseg': ('mmsegmentation', '1.2.2', '1.2.2'),
        'mmpretrain': ('mmpretrain', '1.2.0', '1.2.0'),
    },
}
# mmcv without its compiled operators, which is made for the original family.
LITE = ('mmcv-lite', '2.1.0', '2.2.0')
TORCH = ('torch', '2.1.0', '2.15.0')
REQUIRED = ('mmengine', 'mmcv')
OPTIONAL = ('mmdet', 'mmseg', 'mmpretrain')
_STATE = RLock()


def _installed(distribution: str) -> Version | None:
    try:
        return Version(version(distribution))
    except PackageNotFoundError:
        return None


def describe_versions() -> dict[str, str]:
    """Get the versions of mmhatnet and what it builds on.

    Returns:
        dict[str, str]: Version by distribution, of those that are installed.
    """
    families = [family.values() for family in FAMILIES.values()]
    packages = ('mmhatnet',), TORCH, LITE, *chain(*families)
    found = {name: _installed(name) for name, *_ in packages}
    return {name: str(v) for name, v in found.items() if v}


def check_versions() -> None:
    """Check the versions of the installed packages.

    torch, mmengine and mmcv are required; mmengine and mmcv may be from either
    family. mmdet, mmseg and mmpretrain are checked only if they are installed.
    The check reads metadata and imports nothing.

    Raises:
        ImportError: If torch, mmengine or mmcv is absent, or if any package is
            older than the oldest version that works. The message contains a
            command that solves the problem.
    """
    _check(*TORCH, 'see https://pytorch.org', True)
    in_use = max(
        FAMILIES, key=lambda name: len(_find(*FAMILIES[name].values()))
    )
    for module in REQUIRED + OPTIONAL:
        packages = [FAMILIES[family][module] for family in FAMILIES]
        found = _find(*packages, *([LITE] if module == 'mmcv' else []))
        if len(found) > 1:
            warnings.warn(
                f'{found[0][0]} and {found[1][0]} are both installed and '
                "overwrite each other's files: uninstall both, then install "
                'one.',
                stacklevel=3,
            )
        # If none is installed, name the package of the family in use.
        name, oldest, newest = (found or [FAMILIES[in_use][module]])[0]
        stack = 'onedl' if name.startswith('onedl') else 'openmmlab'
        remedy = (
            f'pip install "{name}>={oldest}", or install everything with '
            f'tools/setup_env.sh --stack {stack} in a clone of mmhatnet'
        )
        _check(name, oldest, newest, remedy, module in REQUIRED)


def _find(*packages: tuple[str, str, str]) -> list[tuple[str, str, str]]:
    """Return the packages that are installed."""
    return [package for package in packages if _installed(package[0])]


def register_configs() -> None:
    """Make ``_base_ = 'mmhatnet::...'`` and ``'mmseg::...'`` work.

    mmengine's table of packages has no mmhatnet, and has mmsegmentation only
    under the name of the original distribution.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    # The name of a module in mmhatnet's folder, because the original mmengine
    # does not find an editable installation by the name of its distribution.
    MODULE2PACKAGE['mmhatnet'] = 'mmhatnet.version'
    _link_clone(Path(__file__).resolve().parents[1])
    if not _installed(FAMILIES['openmmlab']['mmseg'][0]):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def _link_clone(package: Path) -> None:
    """Make the links of an editable installation in a clone without them."""
    names = 'configs', 'tools', 'model-index.yml'
    mim = package / '.mim'
    if mim.exists() or not (package.parent / names[-1]).exists():
        return
    # Without rights, or if another process is faster, nothing is lost here.
    with suppress(OSError), creating(mim) as part:
        for name in names:
            (part / name).symlink_to(Path('..', '..', name))


@contextmanager
def explain_missing_operators() -> Iterator[None]:
    """Name the remedy where mmcv's compiled operators cannot be used.

    Raises:
        ImportError: Instead of the one of ``mmcv._ext``.
    """
    try:
        yield
    except ImportError as error:
        if error.name != 'mmcv._ext':
            raise
        if isinstance(error, ModuleNotFoundError):
            reason = (
                "MMHATNET_OPERATORS asks for mmcv's compiled operators, which "
                'the installed mmcv lacks: unset it, or run '
                'tools/setup_env.sh --compiled'
            )
        else:
            reason = (
                "mmcv's compiled operators are for another torch: set "
                "MMHATNET_OPERATORS=torchvision to use torchvision's instead"
            )
        raise ImportError(reason) from error


@contextmanager
def one_thread_at_a_time() -> Iterator[None]:
    """Let only one thread at a time run what this decorates or surrounds.

    mm keeps the default scope, parts of configs and the state of inferencers
    where other threads can change them.
    """
    with _STATE:
        yield


def _check(
    name: str, oldest: str, newest: str, remedy: str, required: bool
) -> None:
    installed = _installed(name)
    old = installed and installed < Version(oldest)
    if old or (required and not installed):
        found = f', but {installed} is installed' if installed else ''
        raise ImportError(f'mmhatnet needs {name}>={oldest}{found}: {remedy}')
    if installed and installed.release > Version(newest).release:
        warnings.warn(
            f'mmhatnet is tested with {name} up to {newest}; {installed} may '
            'work as well.',
            stacklevel=4,
        )
