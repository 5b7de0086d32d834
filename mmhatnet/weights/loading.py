"""Load checkpoints into models and check every key and shape."""

import logging
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .files import read_checkpoint, strip_checkpoint, unwrap_state_dict
from .official import BACKBONE, HEAD, from_official, is_official, strip_prefix

STEM = 'stem.0.weight'
STEMS = ('adapt', 'random', 'strict')


def check_weights(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
) -> None:
    """Check weights as :func:`check_state_dict` and :func:`check_finite`."""
    check_state_dict(found, expected, source)
    # A value can be beyond the type of the model.
    check_finite(
        {k: value.to(expected[k].dtype) for k, value in found.items()}, source
    )


def check_state_dict(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
) -> None:
    """Check that a state dict has the keys, shapes and kinds of a model's.

    Args:
        found (Mapping[str, Tensor]): The state dict.
        expected (Mapping[str, Tensor]): The model's own state dict.
        source (str): The origin of ``found``, for the message.

    Raises:
        ValueError: If a key, a shape or a kind differs. The message names it.
    """
    shared = {k: v for k, v in expected.items() if k in found}
    problems = {
        'missing': [key for key in expected if key not in found],
        'unexpected': [key for key in found if key not in expected],
        'wrong shape': [
            f'{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}'
            for key, value in shared.items()
            if found[key].shape != value.shape
        ],
        'wrong type': [
            f'{key} {found[key].dtype}'
            for key, value in shared.items()
            if _kind(found[key].dtype) != _kind(value.dtype)
        ],
    }
    if not any(problems.values()):
        return
    matched = len(shared) - len(problems['wrong shape'])
    listed = '; '.join(
        f'{problem}: {", ".join(keys[:4])}'
        + (f' and {len(keys) - 4} more' if len(keys) > 4 else '')
        for problem, keys in problems.items()
        if keys
    )
    raise ValueError(
        f'{source} does not fit the model ({matched} of {len(expected)} keys '
        f'match): {listed}'
    )


def _kind(dtype: torch.dtype) -> tuple[bool, ...]:
    """The kind of values; torch cannot compute with float4, another one."""
    real, other = dtype.is_floating_point, dtype.is_complex
    return real, other, dtype == torch.bool, 'float4' in str(dtype)


def check_finite(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Check that weights are finite.

    Args:
        state_dict (Mapping[str, Tensor]): The weights.
        source (str): Their origin, for the message.

    Raises:
        ValueError: If a value is not finite. The message names its key.
    """
    for key, value in state_dict.items():
        if value.is_floating_point() and value.element_size() == 1:
            value = value.float()  # torch cannot check floats of eight bits
        if not value.isfinite().all():
            raise ValueError(f'{source}: {key} has values that are not finite')


def to_mm(checkpoint: Mapping) -> tuple[dict[str, Tensor], bool]:
    """Get the weights of any checkpoint under the names of mm.

    Args:
        checkpoint (Mapping): A checkpoint of the authors, of mm or of a bare
            HATNet.

    Returns:
        tuple[dict[str, Tensor], bool]: The weights, and whether the names
        were the authors'; then they are ``backbone.*`` and ``head.fc.*`` now.

    Raises:
        ValueError: If there is no tensor.
    """
    state_dict = unwrap_state_dict(checkpoint)
    official = is_official(state_dict)
    return from_official(state_dict) if official else state_dict, official


def to_backbone(
    checkpoint: Mapping,
    model: nn.Module,
    source: str,
    prefix: str | None = None,
    stem: str = 'strict',
) -> dict[str, Tensor]:
    """Get the weights of a bare HATNet from any checkpoint.

    Args:
        checkpoint (Mapping): A checkpoint of the authors, of mm or of a bare
            HATNet.
        model (HATNet): The backbone.
        source (str): The origin of the checkpoint, for the message.
        prefix (str, optional): As for :func:`load_backbone`, like ``stem``.
        stem (str): Defaults to 'strict'.

    Returns:
        dict[str, Tensor]: A state dict for ``model``.

    Raises:
        ValueError: If the weights do not fit or are not finite. Output norms
            and stages that are not built may be missing.
    """
    state_dict, official = to_mm(checkpoint)
    if official:
        state_dict = {
            key.removeprefix(BACKBONE): value
            for key, value in state_dict.items()
            if key not in HEAD
        }
    elif prefix is None:
        state_dict = strip_prefix(state_dict, BACKBONE) or state_dict
    elif prefix:
        prefix = prefix.rstrip('.') + '.'
        keys = ', '.join(list(state_dict)[:4])
        state_dict = strip_prefix(state_dict, prefix)
        if not state_dict:
            raise ValueError(
                f"{source} has no keys '{prefix}*', but {keys} and so on"
            )
    expected = model.state_dict()
    found = {key: expected[key] for key in expected if model.is_optional(key)}
    found |= {
        key: value
        for key, value in state_dict.items()
        if key in expected or not model.is_optional(key)
    }
    _adapt_stem(found, expected, source, stem)
    check_weights(found, expected, source)
    return found


def _adapt_stem(
    found: dict, expected: Mapping, source: str, stem: str
) -> None:
    """Adapt the first convolution to the channels of a model's images."""
    if stem not in STEMS:
        raise ValueError(f"stem is one of {', '.join(STEMS)}; got '{stem}'")
    weight, random = found.get(STEM), expected[STEM]
    dims, channels, *kernel = random.shape
    if stem == 'strict' or weight is None or channels == 3:
        return
    if weight.shape != (dims, 3, *kernel):
        return
    if stem == 'random':
        found[STEM] = random
    elif channels < 3:
        grey = weight.sum(1, keepdim=True)
        found[STEM] = (grey / channels).expand(-1, channels, -1, -1)
    else:
        order = torch.arange(channels) % 3
        found[STEM] = weight[:, order] / order.bincount()[order][:, None, None]
    print_log(
        f'{source} is for 3 channels, and the model for {channels}: the stem '
        f'is {"random" if stem == "random" else "adapted"}',
        logger='current',
        level=logging.WARNING,
    )


def check_classifier(
    found: Mapping[str, Tensor], model: nn.Module, source: str
) -> None:
    """Check keys and shapes of a classifier with any number of classes.

    Args:
        found (Mapping[str, Tensor]): Weights in mm's layout.
        model (HATNet): The classifier's backbone.
        source (str): The origin of the weights, for the message.

    Raises:
        ValueError: If the weights do not fit or the head is missing.
    """
    expected = {BACKBONE + k: value for k, value in model.state_dict().items()}
    expected |= {key: found.get(key, torch.empty(0)) for key in HEAD}
    check_state_dict(found, expected, source)


def load_backbone(
    model: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: str | torch.device = 'cpu',
    stem: str = 'adapt',
) -> None:
    """Load a checkpoint into a bare HATNet.

    ``init_cfg=dict(type='Pretrained', checkpoint=...)`` calls this function.

    Args:
        model (HATNet): The backbone.
        checkpoint (str): A file, a URL or ``'hatnet://<arch>'``; the authors'
            layout or mm's.
        prefix (str, optional): Prefix of the backbone's keys in mm's layout.
            Defaults to None: 'backbone.' if any key starts with it.
        map_location (str | torch.device): As for ``torch.load``. Defaults to
            'cpu'.
        stem (str): How weights for RGB images are loaded into a model for
            another number of channels. 'adapt' sums them for one channel, and
            repeats them as RGBRGB... for several, so that equal channels give
            the features of a grey image. 'random' keeps the model's own.
            'strict' raises an error. Defaults to 'adapt'.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the weights do not fit or are not finite.
    """
    source = str(checkpoint)
    content = read_checkpoint(checkpoint, map_location)
    weights = to_backbone(content, model, source, prefix, stem)
    model.load_state_dict(weights)


def load_weights(model: nn.Module, checkpoint: str) -> dict:
    """Load a checkpoint into a whole model, for inference.

    Args:
        model (nn.Module): The classifier, segmentor or detector.
        checkpoint (str): A file, a URL or ``'hatnet://<arch>'``; mm's layout
            or, for a classifier, the authors'.

    Returns:
        dict: What it says about the data set, such as ``classes``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the weights do not fit or are not finite.
    """
    content = read_checkpoint(checkpoint)
    state_dict, _ = to_mm(content)
    check_weights(state_dict, model.state_dict(), str(checkpoint))
    model.load_state_dict(state_dict)
    meta = strip_checkpoint(content)['meta'].get('dataset_meta') or {}
    return {key.lower(): value for key, value in meta.items()}


def adapt_backbone(state_dict: dict, model: nn.Module, prefix: str) -> None:
    """Convert a state dict in place before a HATNet loads it.

    mmengine would only log that no key matches or that shapes differ.

    Args:
        state_dict (dict): The weights, which may be partial if they have the
            names of the model.
        model (HATNet): The backbone.
        prefix (str): Prefix of the backbone's keys in ``state_dict``.

    Raises:
        ValueError: If the weights do not fit.
    """
    expected = model.state_dict()
    found = strip_prefix(state_dict, prefix)
    matched = [key for key in expected if key in found]
    if found and not matched:
        weights = to_backbone(found, model, 'the checkpoint')
        for key in found:
            del state_dict[prefix + key]
        state_dict |= {prefix + key: value for key, value in weights.items()}
    else:
        check_state_dict(
            {key: found[key] for key in matched},
            {key: expected[key] for key in matched},
            'the checkpoint',
        )


def adapt_classifier(state_dict: dict, model: nn.Module) -> None:
    """Convert a state dict in place before a classifier loads it.

    Args:
        state_dict (dict): The weights; unchanged if they are in mm's layout or
            only belong to a neck or a head.
        model (HATNet): The classifier's backbone.

    Raises:
        ValueError: If the weights do not fit.
    """
    if strip_prefix(state_dict, BACKBONE) or all(
        key.startswith(('neck.', 'head.')) for key in state_dict
    ):
        return
    weights, _ = to_mm(state_dict)
    check_classifier(weights, model, 'the checkpoint')
    state_dict.clear()
    state_dict.update(weights)
