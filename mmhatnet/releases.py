"""Weights by name and URL, and the conversion of the authors' classifiers.

Importing this module registers ``hatnet://`` and the URL of the authors'
release with mmengine's ``CheckpointLoader``.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .models.hatnet import HATNet
from .weights.download import PIN, sha256_of, split_pin
from .weights.files import (
    locate_checkpoint,
    read_checkpoint,
    unwrap_state_dict,
)
from .weights.loading import check_finite, to_classifier
from .weights.official import (
    OFFICIAL_HEAD,
    RELEASE_URL,
    is_official,
    to_official,
)

RELEASES = {
    'tiny': 'HAT-Net_Tiny.pth',
    'small': 'HAT-Net_Small.pth',
    'medium': 'HAT-Net_Medium.pth',
    'large': 'HAT-Net_Large.pth',
}
# Weights of our own, which the package contains.
SHIPPED = Path(__file__).parent / 'weights' / 'shipped'


def convert_classifier(
    checkpoint: Mapping, source: str, arch: str | None = None
) -> tuple[str, dict[str, Tensor]]:
    """Convert a complete checkpoint of the authors to mm's layout.

    Args:
        checkpoint (Mapping): The checkpoint, as from
            :func:`~mmhatnet.weights.files.read_checkpoint`.
        source (str): The origin of the checkpoint, for the message.
        arch (str, optional): 'tiny', 'small', 'medium' or 'large'. Defaults
            to None, which finds the arch by the numbers of blocks.

    Returns:
        tuple[str, dict[str, Tensor]]: The arch, and the state dict of a
        classifier in mm's layout.

    Raises:
        ValueError: If a key is missing or unexpected, a shape differs, or a
            value is not finite. The message names the key.
    """
    state_dict = unwrap_state_dict(checkpoint)
    if not is_official(state_dict):
        raise ValueError(
            f"{source} is not in the layout of the authors' classifiers: it "
            f'has {", ".join(list(state_dict)[:3]) or "no tensors"}...'
        )
    if arch is None:
        keys = '\n'.join(state_dict)
        blocks = set(re.findall(r'^blocks\.(\d+)\.(\d+)\.', keys, re.M))
        stages = [stage for stage, _ in blocks]
        depths = tuple(stages.count(stage) for stage in '0123')
        arch = next(
            (a for a in RELEASES if HATNet.arch_zoo[a]['depths'] == depths),
            None,
        )
        if arch is None:
            raise ValueError(
                f'{source} has {depths} blocks, which matches none of '
                f'{", ".join(RELEASES)}'
            )
    with torch.device('meta'):
        model = HATNet(arch, out_indices=-1)
    weights = to_classifier(state_dict, model, source)
    check_finite(weights, source)
    return arch, weights


def convert_to_official(
    checkpoint: Mapping, source: str
) -> tuple[str, dict[str, Tensor]]:
    """Convert a checkpoint of mm for the authors' code.

    Args:
        checkpoint (Mapping): A classifier, or any other model with a HATNet;
            the latter gives its backbone alone.
        source (str): The origin of the checkpoint, for the message.

    Returns:
        tuple[str, dict[str, Tensor]]: The arch, and a state dict with the
        authors' keys.

    Raises:
        ValueError: The same errors as :func:`convert_classifier`.
    """
    official = to_official(unwrap_state_dict(checkpoint))
    # Check the result by converting it back; a backbone has no head.
    head = {key: torch.empty(0) for key in OFFICIAL_HEAD}
    arch, _ = convert_classifier({**head, **official}, source)
    return arch, official


def list_shipped() -> dict[str, Path]:
    """List the weights that the package contains.

    Returns:
        dict[str, Path]: The files by name, ``<name>-<first 8 digits of the
        SHA-256>.pth``.
    """
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
    arch = _find_arch(name)
    if arch is None:
        raise ValueError(
            f"unknown checkpoint '{location}': choose from "
            + ', '.join(f'hatnet://{name}' for name in [*RELEASES, *shipped])
        )
    return locate_checkpoint(f'{RELEASE_URL}/{RELEASES[arch]}', pin)


def _find_arch(name: str) -> str | None:
    return next((arch for arch in RELEASES if name in (arch, arch[0])), None)


@CheckpointLoader.register_scheme('hatnet://', force=True)
def load_from_hatnet(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Load weights by name; all of mm's loaders call it.

    Weights that the package contains are read from there. The authors'
    ImageNet weights are downloaded to torch's hub cache, from the authors'
    release or from ``$MMHATNET_RELEASE_URL``, a mirror with the same file
    names.

    Args:
        filename (str): ``hatnet://`` and a name of :func:`list_shipped`, or
            'tiny', 'small', 'medium', 'large' or the first letter of one, for
            the authors' weights. A ``#sha256=...`` at the end makes the loader
            verify the file's hash.
        map_location (str | torch.device, optional): As for ``torch.load``.
            Defaults to None, 'cpu'.

    Returns:
        dict: The ``state_dict`` of a model in mm's layout; shipped weights
        have a ``meta``, too.

    Raises:
        OSError: If the download fails.
        ValueError: If the name is unknown, or the file is damaged or another
            model.
    """
    path = locate_weights(filename)
    if path.parent == SHIPPED:
        return read_checkpoint(path, map_location or 'cpu')
    name, _ = split_pin(filename.removeprefix('hatnet://'))
    try:
        content = read_checkpoint(path, map_location or 'cpu')
        _, state_dict = convert_classifier(
            content, str(path), _find_arch(name)
        )
    except ValueError as error:
        raise ValueError(
            f'{error}. Delete {path} and {path.name}.sha256 to download it '
            'again'
        ) from error
    return dict(state_dict=state_dict)


@CheckpointLoader.register_scheme(f'{RELEASE_URL}/', force=True)
def load_from_release(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Load the authors' weights by the URLs of the metafiles.

    Args:
        filename (str): A URL of the release; ``#sha256=...`` may follow.
        map_location (str | torch.device, optional): As for ``torch.load``.
            Defaults to None, 'cpu'.

    Returns:
        dict: As from :func:`load_from_hatnet`, with the same errors.
    """
    location, mark, pin = filename.partition(PIN)
    names = {f'{RELEASE_URL}/{RELEASES[arch]}': arch for arch in RELEASES}
    name = names.get(location, location)
    return load_from_hatnet(f'hatnet://{name}{mark}{pin}', map_location)
