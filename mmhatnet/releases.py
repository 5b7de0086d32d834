"""The authors' files by name and URL, and whole classifiers converted.

Importing this module registers ``hatnet://`` and the URL of the authors'
release with mmengine's ``CheckpointLoader``.
"""

import re
from collections.abc import Mapping

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .models.hatnet import HATNet
from .weights.download import PIN, split_pin
from .weights.files import (
    locate_checkpoint,
    read_checkpoint,
    unwrap_state_dict,
)
from .weights.loading import adapt_classifier
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


def convert_classifier(
    checkpoint: Mapping, source: str, arch: str | None = None
) -> tuple[str, dict[str, Tensor]]:
    """Convert a checkpoint of the authors, which has to be complete.

    Args:
        checkpoint (Mapping): As from :func:`read_checkpoint`.
        source (str): Where it comes from, for the message.
        arch (str, optional): 'tiny', 'small', 'medium' or 'large'. Defaults
            to None, the one that has the file's numbers of blocks.

    Returns:
        tuple[str, dict[str, Tensor]]: The arch, and the state dict of a
        classifier in mm's layout.

    Raises:
        ValueError: If a key is missing, unexpected or of another shape, or a
            value is not finite. The message names it.
    """
    state_dict = unwrap_state_dict(checkpoint)
    if not is_official(state_dict):
        raise ValueError(
            f"{source} is not in the layout of the authors' classifiers: it "
            f'has {", ".join(list(state_dict)[:3]) or "no tensors"}...'
        )
    if arch is None:
        blocks = {re.match(r'blocks\.(\d+)\.\d+\.', k) for k in state_dict}
        blocks = sorted({match.group() for match in blocks if match})
        depths = tuple(
            sum(block.startswith(f'blocks.{stage}.') for block in blocks)
            for stage in range(4)
        )
        arch = next(
            (a for a in RELEASES if HATNet.arch_zoo[a]['depths'] == depths),
            None,
        )
        if arch is None:
            raise ValueError(
                f'{source} has {depths} blocks, like none of '
                f'{", ".join(RELEASES)}'
            )
    with torch.device('meta'):
        model = HATNet(arch, out_indices=-1)
    try:
        adapt_classifier(state_dict, model)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    for key, value in state_dict.items():
        if not value.isfinite().all():
            raise ValueError(f'{source}: {key} has values that are not finite')
    return arch, state_dict


def convert_to_official(
    checkpoint: Mapping, source: str
) -> tuple[str, dict[str, Tensor]]:
    """Convert a checkpoint of mm for the authors' code.

    Args:
        checkpoint (Mapping): Of a classifier, or of any model with a HATNet,
            of which only the backbone is taken.
        source (str): Where it comes from, for the message.

    Returns:
        tuple[str, dict[str, Tensor]]: The arch, and a state dict with the
        authors' keys; ``proj_norm``, which no forward pass uses, is at
        identity.

    Raises:
        ValueError: As in :func:`convert_classifier`.
    """
    official = to_official(unwrap_state_dict(checkpoint))
    # What comes back has to be the model that went in.
    head = {theirs: torch.empty(0) for theirs in OFFICIAL_HEAD}
    arch, _ = convert_classifier({**head, **official}, source)
    return arch, official


@CheckpointLoader.register_scheme('hatnet://', force=True)
def load_from_hatnet(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Load the authors' ImageNet weights by name, for any of mm's loaders.

    The file is downloaded to torch's hub cache, from the authors' release or
    from ``$MMHATNET_RELEASE_URL``, where the same file names have to be.

    Args:
        filename (str): ``hatnet://`` and 'tiny', 'small', 'medium' or
            'large', or their first letter; ``#sha256=...`` behind it has the
            file's hash verified.
        map_location (str | torch.device, optional): As for ``torch.load``.
            Defaults to None, 'cpu'.

    Returns:
        dict: ``state_dict`` of a classifier in mm's layout.

    Raises:
        OSError: If the file cannot be downloaded.
        ValueError: If the name is unknown or the file is not that model.
    """
    location, pin = split_pin(filename)
    name = location.removeprefix('hatnet://')
    arch = next((arch for arch in RELEASES if name in (arch, arch[0])), None)
    if arch is None:
        raise ValueError(
            f"unknown checkpoint '{location}': choose from "
            + ', '.join(f'hatnet://{arch}' for arch in RELEASES)
        )
    path = locate_checkpoint(f'{RELEASE_URL}/{RELEASES[arch]}', pin)
    try:
        content = read_checkpoint(path, map_location or 'cpu')
        _, state_dict = convert_classifier(content, str(path), arch)
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
    """Load the authors' weights by the URLs that the metafiles have."""
    location, mark, pin = filename.partition(PIN)
    names = {f'{RELEASE_URL}/{RELEASES[arch]}': arch for arch in RELEASES}
    name = names.get(location, location)
    return load_from_hatnet(f'hatnet://{name}{mark}{pin}', map_location)
