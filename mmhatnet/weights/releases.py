"""Weights by name and URL.

Importing this module registers ``hatnet://`` and the URL of the authors'
release with mmengine's ``CheckpointLoader``.
"""

from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader

from ..utils.hashes import PIN, sha256_of, split_pin
from .files import locate_checkpoint, read_checkpoint
from .loading import check_finite, to_mm
from .official import RELEASE_URL

RELEASES = {
    'tiny': 'HAT-Net_Tiny.pth',
    'small': 'HAT-Net_Small.pth',
    'medium': 'HAT-Net_Medium.pth',
    'large': 'HAT-Net_Large.pth',
}
# Weights of our own, which the package contains.
SHIPPED = Path(__file__).with_name('shipped')


def list_shipped() -> dict[str, Path]:
    """List the weights that the package contains, the files by name."""
    files = sorted(SHIPPED.glob('*.pth'))
    return {path.stem.rpartition('-')[0]: path for path in files}


def locate_weights(location: str) -> Path:
    """Find the file that a name, path or URL of weights stands for.

    Args:
        location (str): As for
            :func:`~mmhatnet.weights.files.read_checkpoint`.

    Returns:
        Path: The file; downloaded if necessary.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If the download fails.
        ValueError: If the name is unknown, or the file has another hash.
    """
    location, pin = split_pin(location)
    if not location.startswith('hatnet://'):
        return locate_checkpoint(location, pin)
    name = location.removeprefix('hatnet://')
    shipped = list_shipped()
    if name in shipped:
        path = shipped[name]
        if not sha256_of(path).startswith(path.stem.rpartition('-')[2]):
            raise ValueError(f'{path} is damaged: install mmhatnet again')
        return locate_checkpoint(str(path), pin)
    arch = next((arch for arch in RELEASES if name in (arch, arch[0])), None)
    if arch is None:
        raise ValueError(
            f"unknown checkpoint '{location}': choose from "
            + ', '.join(f'hatnet://{name}' for name in [*RELEASES, *shipped])
        )
    return locate_checkpoint(f'{RELEASE_URL}/{RELEASES[arch]}', pin)


@CheckpointLoader.register_scheme('hatnet://', force=True)
def load_from_hatnet(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Load weights by name; all of mm's loaders call it.

    Args:
        filename (str): ``hatnet://`` and a name of :func:`list_shipped`; or
            for the authors' weights 'tiny', 'small', 'medium', 'large' or the
            first letter of one, which are downloaded to torch's hub cache. A
            ``#sha256=...`` at the end makes the loader verify the hash.
        map_location (str | torch.device, optional): As for ``torch.load``.
            Defaults to None, 'cpu'.

    Returns:
        dict: The ``state_dict`` of a model in mm's layout; shipped weights
        have a ``meta``, too.

    Raises:
        OSError: If the download fails.
        ValueError: If the name is unknown or the file is damaged.
    """
    path = locate_weights(filename)
    content = read_checkpoint(path, map_location or 'cpu')
    if path.parent == SHIPPED:
        return content
    try:
        state_dict, _ = to_mm(content)
        check_finite(state_dict, str(path))
    except ValueError as error:
        raise ValueError(
            f'{error}. Delete {path} and {path.name}.sha256 to download it '
            'again'
        ) from error
    return dict(state_dict=state_dict)


@CheckpointLoader.register_scheme(f'{RELEASE_URL}/', force=True)
def _load_from_release(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Load the authors' weights by the URLs of the metafiles."""
    location, mark, pin = filename.partition(PIN)
    names = {f'{RELEASE_URL}/{RELEASES[arch]}': arch for arch in RELEASES}
    name = names.get(location, location)
    return load_from_hatnet(f'hatnet://{name}{mark}{pin}', map_location)
