"""Conversion of whole classifiers between the authors' layout and mm's."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.hatnet import HATNet
from ..weights.files import unwrap_state_dict
from ..weights.loading import check_classifier, check_finite, to_mm
from ..weights.official import OFFICIAL_HEAD, to_official
from ..weights.releases import RELEASES


def convert_classifier(
    checkpoint: Mapping, source: str
) -> tuple[str, dict[str, Tensor]]:
    """Convert a complete checkpoint of the authors to mm's layout.

    Args:
        checkpoint (Mapping): The checkpoint, as from ``read_checkpoint``.
        source (str): The origin of the checkpoint, for the message.

    Returns:
        tuple[str, dict[str, Tensor]]: The arch, which the numbers of blocks
        tell, and the state dict of a classifier in mm's layout.

    Raises:
        ValueError: If a key is missing or unexpected, a shape differs, or a
            value is not finite. The message names the key.
    """
    weights, official = to_mm(checkpoint)
    if not official:
        raise ValueError(
            f"{source} is not in the layout of the authors' classifiers: it "
            f'has {", ".join(list(weights)[:3])}...'
        )
    blocks = {*re.findall(r'\.stages\.(\d+)\.(\d+)\.', ' '.join(weights))}
    stages = [stage for stage, _ in blocks]
    depths = tuple(stages.count(stage) for stage in '0123')
    archs = {HATNet.arch_zoo[arch]['depths']: arch for arch in RELEASES}
    if depths not in archs:
        raise ValueError(
            f'{source} has {depths} blocks, which matches none of '
            f'{", ".join(RELEASES)}'
        )
    arch = archs[depths]
    with torch.device('meta'):
        model = HATNet(arch, out_indices=-1)
    check_classifier(weights, model, source)
    check_finite(weights, source)
    return arch, weights


def convert_to_official(
    checkpoint: Mapping, source: str
) -> tuple[str, dict[str, Tensor]]:
    """Convert a checkpoint of mm for the authors' code.

    Its arguments, results and errors are those of :func:`convert_classifier`.
    Of a model that is not a classifier, only the backbone is converted.
    """
    official = to_official(unwrap_state_dict(checkpoint))
    # Check the result by converting it back; a backbone has no head.
    head = {key: torch.empty(0) for key in OFFICIAL_HEAD}
    arch, _ = convert_classifier({**head, **official}, source)
    return arch, official
