"""The authors' release: its address and the names of its weights.

The authors' files hold the state dict bare or under ``model`` or
``state_dict``, with or without a ``module.`` prefix. Converted weights have
mm's layout of a classifier: ``backbone.*`` and ``head.fc.*``.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

RELEASE_URL = 'https://github.com/yun-liu/HAT-Net/releases/download/v2.0'

# Official name -> ours; see _rename_keys.
RENAMES = {
    'patch_embed.': 'backbone.stem.',
    'ds2.conv.': 'backbone.downsamples.0.0.',
    'ds2.norm.': 'backbone.downsamples.0.1.',
    'ds3.conv.': 'backbone.downsamples.1.0.',
    'ds3.norm.': 'backbone.downsamples.1.1.',
    'ds4.conv.': 'backbone.downsamples.2.0.',
    'ds4.norm.': 'backbone.downsamples.2.1.',
    'blocks.': 'backbone.stages.',
    'classifier.1.': 'head.fc.',
    '.attn.ds_norm.': '.attn.pool_norm.',
    '.conv.conv1.0.': '.mlp.norm1.',
    '.conv.conv1.1.': '.mlp.fc1.',
    '.conv.conv2.0.': '.mlp.dw_conv.',
    '.conv.conv3.0.': '.mlp.fc2.',
    '.conv.conv3.1.': '.mlp.norm2.',
}
# Every official file has these weights; no forward pass uses them.
UNUSED = re.compile(r'^blocks\.\d+\.\d+\.attn\.proj_norm\.(weight|bias)$')
BACKBONE = 'backbone.'
HEAD = ('head.fc.weight', 'head.fc.bias')
OFFICIAL_HEAD = ('classifier.1.weight', 'classifier.1.bias')
_OFFICIAL = re.compile(r'(patch_embed\.[013]|blocks\.\d+\.\d+)\.')


def is_official(keys: Iterable[str]) -> bool:
    """Whether keys are named as in the authors' code."""
    return any(_OFFICIAL.match(key) for key in keys)


def strip_prefix(
    state_dict: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """Get the tensors whose keys have a prefix, without this prefix."""
    return {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }


def _rename_keys(
    state_dict: Mapping[str, Tensor], renames: Mapping[str, str]
) -> dict[str, Tensor]:
    """Replace old parts of keys by new ones, in their order.

    An old part is at the start of a key, or anywhere if it starts with a dot.
    """
    renamed = {}
    for key, value in state_dict.items():
        for old, new in renames.items():
            if old.startswith('.'):
                key = key.replace(old, new)
            elif key.startswith(old):
                key = new + key.removeprefix(old)
        renamed[key] = value
    return renamed


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours.

    Args:
        state_dict (Mapping[str, Tensor]): The weights.

    Returns:
        dict[str, Tensor]: The weights under ``backbone.*`` and ``head.fc.*``,
        without the unused ``proj_norm``. Unknown keys keep their names.
    """
    used = {k: v for k, v in state_dict.items() if not UNUSED.match(k)}
    return _rename_keys(used, RENAMES)


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our keys to the authors'.

    Args:
        state_dict (Mapping[str, Tensor]): Weights of a bare HATNet or of any
            model with a HATNet under ``backbone.*``.

    Returns:
        dict[str, Tensor]: The backbone and the head of a classifier. Necks
        and other heads are left out; ``proj_norm``, which no forward pass
        uses, is added as an identity.
    """
    prefix = '' if strip_prefix(state_dict, BACKBONE) else BACKBONE
    ours = {prefix + key: value for key, value in state_dict.items()}
    official = _rename_keys(
        {k: v for k, v in ours.items() if k in HEAD or k.startswith(BACKBONE)},
        {new: old for old, new in RENAMES.items()},
    )
    for key, value in list(official.items()):
        if key.endswith('.attn.proj.bias'):
            norm = key.removesuffix('proj.bias') + 'proj_norm.'
            official[norm + 'weight'] = torch.ones_like(value)
            official[norm + 'bias'] = torch.zeros_like(value)
    return official
