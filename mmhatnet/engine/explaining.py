"""Says in one line what mm's classes refuse in a config."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from traceback import extract_tb, walk_tb
from types import FrameType
from typing import Any

from mmengine.model import BaseDataPreprocessor
from torch import nn

from ..registry import MODELS
from ..utils.stack import FAMILIES

ARGUMENTS = re.compile(
    r'(\w+)\.__init__\(\) (?:got an unexpected keyword argument '
    r'(?P<unknown>.+)|missing .+?: (?P<missing>.+))'
)
UNKNOWN_TYPE = re.compile(r"'(\S+) is not in the (\S+) registry")
# Of torch, where a layer gets other channels than it has weights for; the
# last two are those of meta tensors.
CHANNELS = re.compile(
    r'to have \d+ channels, but got \d+ channels'
    r'|shapes cannot be multiplied'
    r'|Invalid channel dimensions|must have same reduction dim'
)
# Where an extractor of regions copies other channels than it has room for.
COPIED = re.compile('cannot be broadcast to indexing result')
# Where a data_preprocessor takes the mean of other channels from images.
UNEQUAL = re.compile('must match the size of tensor')
# In the code of mm that counts the maps that a part gets.
NUMBERS = re.compile('in_channels|in_index|num_ins|num_levels')
# Settings on which the input of a part of a model depends. An extractor of
# regions has no in_channels; its out_channels are those of its input.
SETTINGS = 'in_channels', 'in_index', 'roi_feat_size'
NORMALIZED = (
    'mean and std of the data_preprocessor need one value for each channel of '
    'the images'
)
OTHERS = 'its input has other channels'
IMAGES = (
    'the backbone is for images with other channels: its in_channels, '
    "the model's data_preprocessor and the color_type of LoadImageFromFile "
    'must agree'
)


def explain(error: BaseException) -> str:
    """Say what to change in a config.

    Args:
        error (BaseException): An error with its traceback.

    Returns:
        str: A sentence; '' for an error of other code or of another kind,
        whose traceback is needed.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if not frames:
        return ''
    owner = frames[-1].f_locals.get('self')
    of_mm = _is_of_mm(frames[-1].f_globals.get('__name__', ''))
    if of_mm and isinstance(owner, BaseDataPreprocessor):
        if isinstance(error, AssertionError) and '` should have' in str(error):
            return str(error)
        if UNEQUAL.search(str(error)):
            return NORMALIZED
    if isinstance(error, RuntimeError):
        channels = COPIED if hasattr(owner, 'roi_layers') else CHANNELS
        known = channels.search(str(error))
        return _explain_input(frames, OTHERS) if known else ''
    if not of_mm:
        return ''
    if isinstance(error, AssertionError | IndexError):
        line = extract_tb(error.__traceback__)[-1].line or ''
        counts = NUMBERS.search(line)
        return _explain_input(frames, f'{line} fails') if counts else ''
    match = UNKNOWN_TYPE.search(str(error))
    if match and isinstance(error, KeyError):
        return _explain_type(match, frames[-1].f_locals)
    match = ARGUMENTS.search(str(error))
    if match and isinstance(error, TypeError):
        return _explain_arguments(match, frames[-1].f_locals)
    return ''


def _explain_type(match: re.Match, found: Mapping) -> str:
    name, registry = match.groups()
    names = {x.lower(): f'mmhatnet.{x}' for x in MODELS.module_dict}
    names |= {x.lower(): x for x in found['registry'].module_dict}
    similar = [names[x] for x in get_close_matches(name.lower(), names)]
    return (
        f"the config has type='{name}', which is not in the registry "
        f'{registry}; similar names: {", ".join(similar) or "none"}'
    )


def _explain_arguments(match: re.Match, found: Mapping) -> str:
    unknown, missing = match['unknown'], match['missing']
    text = f'needs {missing}' if missing else f'has no argument {unknown}'
    text = f'{match[1]} {text}'
    if 'obj_cls' in found:  # else a parent class, called by another
        known = ', '.join(signature(found['obj_cls']).parameters)
        text += f'; it has {known}'
    return text


def _is_of_mm(module: str) -> bool:
    package = module.partition('.')[0]
    return package == 'mmhatnet' or package in FAMILIES['onedl']


def _explain_input(frames: Sequence[FrameType], problem: str) -> str:
    """Name the part of a model whose settings do not fit its input."""
    owners = [frame.f_locals.get('self') for frame in frames]
    layers = [owner for owner in owners if isinstance(owner, nn.Module)]
    model = next((x for x in layers if hasattr(x, 'backbone')), nn.Module())
    extracts = hasattr(owners[-1], 'roi_layers')
    keys = ('out_channels',) if extracts else SETTINGS
    part = next((x for x in layers if hasattr(x, keys[0])), None)
    backbone: Any = getattr(model, 'backbone', None)
    neck = getattr(model, 'neck', None)
    # One of a user's own parts may be what gives the wrong maps.
    if not all(_is_of_mm(type(x).__module__) for x in model.children()):
        return ''
    if backbone in layers:
        return IMAGES if problem == OTHERS else ''
    if part is None or not _is_of_mm(type(part).__module__):
        return ''
    name, source = type(part).__name__, ''
    places = [place for place, x in model.named_modules() if x is part]
    if places:
        name = f'{places[0]} ({name})'
    given = getattr(neck, 'out_channels', None)
    if given and part is not neck:
        source = f'; the neck gives {given}'
    elif hasattr(backbone, 'embed_dims'):
        indices = backbone.out_indices
        dims = [backbone.embed_dims[i] for i in indices]
        source = f'; the backbone gives {dims}, as its out_indices={indices}'
    settings = ' and '.join(
        f'{key}={getattr(part, key)}' for key in keys if hasattr(part, key)
    )
    return f'{name} has {settings}, but {problem}{source}'
