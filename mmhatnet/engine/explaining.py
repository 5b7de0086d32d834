"""Says in one line what mm's classes refuse in a config."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from traceback import extract_tb, walk_tb
from types import FrameType

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
# In the code of mm that counts the maps that a part gets.
NUMBERS = re.compile('in_channels|in_index|num_ins|num_levels')
# Settings on which the input of a part of a model depends.
SETTINGS = 'in_channels', 'in_index', 'roi_feat_size'
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
    text = str(error)
    refused = isinstance(error, AssertionError) and not text
    if refused or isinstance(error, IndexError):
        line = extract_tb(error.__traceback__)[-1].line or ''
        is_of_mm = _is_of_mm(frames[-1].f_globals.get('__name__', ''))
        if is_of_mm and NUMBERS.search(line):
            return _explain_input(frames, f'{line} fails')
        return ''
    if isinstance(error, RuntimeError) and CHANNELS.search(text):
        return _explain_input(frames, OTHERS)
    if not _is_of_mm(frames[-1].f_globals.get('__name__', '')):
        return ''
    found = frames[-1].f_locals
    match = UNKNOWN_TYPE.search(text)
    if match and isinstance(error, KeyError):
        names = {x.lower(): f'mmhatnet.{x}' for x in MODELS.module_dict}
        names |= {x.lower(): x for x in found['registry'].module_dict}
        similar = get_close_matches(match[1].lower(), names)
        return (
            f"the config has type='{match[1]}', which is not in the registry "
            f'{match[2]}; similar names: '
            f'{", ".join(names[x] for x in similar) or "none"}'
        )
    match = ARGUMENTS.search(text)
    if match and isinstance(error, TypeError):
        unknown, missing = match['unknown'], match['missing']
        text = f'needs {missing}' if missing else f'has no argument {unknown}'
        text = f'{match[1]} {text}'
        if 'obj_cls' in found:  # else a parent class, called by another
            known = ', '.join(signature(found['obj_cls']).parameters)
            text += f'; it has {known}'
        return text
    return ''


def _is_of_mm(module: str) -> bool:
    package = module.partition('.')[0]
    return package == 'mmhatnet' or package in FAMILIES['onedl']


def _explain_input(frames: Sequence[FrameType], problem: str) -> str:
    """Name the part of a model whose settings do not fit its input."""
    layers = [frame.f_locals.get('self') for frame in frames]
    layers = [layer for layer in layers if isinstance(layer, nn.Module)]
    model = next((x for x in layers if hasattr(x, 'backbone')), None)
    part = next((x for x in layers if hasattr(x, 'in_channels')), None)
    if model and model.backbone in layers:
        ours = _is_of_mm(type(model.backbone).__module__)
        return IMAGES if ours and problem == OTHERS else ''
    if part is None or not _is_of_mm(type(part).__module__):
        return ''
    name, source = type(part).__name__, ''
    if model:
        backbone, neck = model.backbone, getattr(model, 'neck', None)
        if not all(_is_of_mm(type(x).__module__) for x in model.children()):
            return ''  # it may be an error of a user's own part
        places = (k for k, v in model.named_modules() if v is part)
        name = f'{next(places, "the model")} ({name})'
        given = getattr(neck, 'out_channels', None)
        if part is not neck and given:
            source = f'; the neck gives {given}'
        elif hasattr(backbone, 'embed_dims'):
            indices = backbone.out_indices
            dims = [backbone.embed_dims[i] for i in indices]
            source = f'; the backbone gives {dims}, as its out_indices='
            source += f'{indices}'
    settings = ' and '.join(
        f'{key}={getattr(part, key)}' for key in SETTINGS if hasattr(part, key)
    )
    return f'{name} has {settings}, but {problem}{source}'
