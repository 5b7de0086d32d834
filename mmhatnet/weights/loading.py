"""Loading checkpoints into models, with every key and shape checked."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .files import read_checkpoint, strip_checkpoint, unwrap_state_dict
from .official import BACKBONE, HEAD, from_official, has_prefix, is_official


def check_state_dict(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
) -> None:
    """Compare a state dict with what a model needs.

    Args:
        found (Mapping[str, Tensor]): The state dict.
        expected (Mapping[str, Tensor]): That of the model.
        source (str): Where ``found`` comes from, for the message.

    Raises:
        ValueError: If keys are missing, unexpected or of another shape. The
            message names them.
    """

    def listing(problem: str, keys: list[str]) -> str:
        more = f' and {len(keys) - 4} more' if len(keys) > 4 else ''
        return f'{problem}: {", ".join(keys[:4])}{more}' if keys else ''

    problems = [
        listing('missing', [key for key in expected if key not in found]),
        listing('unexpected', [key for key in found if key not in expected]),
        listing(
            'wrong shape',
            [
                f'{key} {tuple(found[key].shape)} instead of '
                f'{tuple(value.shape)}'
                for key, value in expected.items()
                if key in found and found[key].shape != value.shape
            ],
        ),
    ]
    if any(problems):
        matched = len(found.keys() & expected.keys())
        raise ValueError(
            f'{source} does not fit the model ({matched} of '
            f'{len(expected)} keys match): '
            + '; '.join(problem for problem in problems if problem)
        )


def to_backbone(
    checkpoint: Mapping,
    model: nn.Module,
    source: str,
    prefix: str | None = None,
) -> dict[str, Tensor]:
    """Get the weights for a bare HATNet out of any checkpoint.

    Args:
        checkpoint (Mapping): Of the authors, of mm or of a bare HATNet.
        model (HATNet): The backbone.
        source (str): Where it comes from, for the message.
        prefix (str, optional): Prefix of the backbone's keys. Defaults to
            None, 'backbone.' where there are such keys and else none.

    Returns:
        dict[str, Tensor]: The state dict of ``model``.

    Raises:
        ValueError: If the weights do not fit, but for norms on the outputs,
            which keep what they have, and stages that are not built.
    """
    state_dict = unwrap_state_dict(checkpoint)
    if is_official(state_dict):
        state_dict = {
            key.removeprefix(BACKBONE): value
            for key, value in from_official(state_dict).items()
            if key not in HEAD
        }
    else:
        if prefix is None:
            prefix = BACKBONE if has_prefix(state_dict, BACKBONE) else ''
        elif prefix:
            prefix = prefix.rstrip('.') + '.'
            if not has_prefix(state_dict, prefix):
                raise ValueError(
                    f"{source} has no keys '{prefix}*', but "
                    f'{", ".join(list(state_dict)[:4])} and so on'
                )
        state_dict = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
    expected = model.state_dict()
    found = {
        **{key: expected[key] for key in expected if model.is_optional(key)},
        **{
            key: value
            for key, value in state_dict.items()
            if key in expected or not model.is_optional(key)
        },
    }
    check_state_dict(found, expected, source)
    return found


def load_backbone(
    model: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: str | torch.device = 'cpu',
) -> None:
    """Load a checkpoint into a bare HATNet.

    This is what ``init_cfg=dict(type='Pretrained', checkpoint=...)`` does.

    Args:
        model (HATNet): The backbone.
        checkpoint (str): A file, a URL or ``'hatnet://<arch>'``, of the
            authors or of mm.
        prefix (str, optional): Prefix of the backbone's keys in a checkpoint
            of mm. Defaults to None, 'backbone.' where there are such keys.
        map_location (str | torch.device): As for ``torch.load``. Defaults to
            'cpu'.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit; see :func:`to_backbone`.
    """
    content = read_checkpoint(checkpoint, map_location)
    model.load_state_dict(to_backbone(content, model, str(checkpoint), prefix))


def load_weights(model: nn.Module, checkpoint: str) -> dict:
    """Load a checkpoint into a whole model, for inference.

    Args:
        model (nn.Module): The classifier, segmentor or detector.
        checkpoint (str): A file, a URL or ``'hatnet://<arch>'``, of mm or, for
            a classifier, of the authors.

    Returns:
        dict: What the checkpoint says of the data set, such as ``classes``;
        empty if it says nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit. The message names the keys.
    """
    content = read_checkpoint(checkpoint)
    state_dict = unwrap_state_dict(content)
    if is_official(state_dict):
        state_dict = from_official(state_dict)
    check_state_dict(state_dict, model.state_dict(), str(checkpoint))
    model.load_state_dict(state_dict)
    meta = strip_checkpoint(content)['meta'].get('dataset_meta') or {}
    return {key.lower(): value for key, value in meta.items()}


def adapt_backbone(state_dict: dict, model: nn.Module, prefix: str) -> None:
    """Make a state dict that is being loaded into a HATNet fit, in place.

    Where nothing matches or shapes differ, mmengine would only log it.

    Args:
        state_dict (dict): Converted if none of its keys is the model's, else
            only the shapes are compared; it may be partial.
        model (HATNet): The backbone.
        prefix (str): Prefix of the backbone's keys in ``state_dict``.

    Raises:
        ValueError: If the weights do not fit.
    """
    expected = model.state_dict()
    found = {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
    matched = [key for key in expected if key in found]
    if found and not matched:
        weights = to_backbone(found, model, 'the checkpoint')
        for key in found:
            del state_dict[prefix + key]
        state_dict.update(
            {prefix + key: value for key, value in weights.items()}
        )
    else:
        check_state_dict(
            {key: found[key] for key in matched},
            {key: expected[key] for key in matched},
            'the checkpoint',
        )


def adapt_classifier(state_dict: dict, model: nn.Module) -> None:
    """Make a state dict that is being loaded into a classifier fit, in place.

    Args:
        state_dict (dict): Left alone if it is in mm's layout, or has nothing
            but parts of a neck or a head.
        model (HATNet): The classifier's backbone.

    Raises:
        ValueError: If the weights do not fit.
    """
    if has_prefix(state_dict, BACKBONE) or all(
        key.startswith(('neck.', 'head.')) for key in state_dict
    ):
        return
    found = from_official(unwrap_state_dict(state_dict))
    expected = {
        **{BACKBONE + key: value for key, value in model.state_dict().items()},
        # The head is compared by its own class.
        **{key: found.get(key, torch.empty(0)) for key in HEAD},
    }
    check_state_dict(found, expected, 'the checkpoint')
    state_dict.clear()
    state_dict.update(found)
