"""The sizes of HAT-Net (Table 1 of the paper), and checks of arguments.

A check takes an argument of :class:`~mmhatnet.models.HATNet`, which says what
it may be. It returns plain integers, also for those of numpy, and raises
ValueError with the name of an illegal argument.
"""

from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter
from numbers import Integral, Real
from typing import Any, Literal

STAGES = 4
TOO_LARGE = 2**31  # for torch's pooling, and far beyond any map
AUTO: Literal['auto'] = 'auto'  # G2 that grows with the image
Ratio = int | Literal['auto']  # G2 of a stage
# G1 and G2 of the stages 0 to 2.
Grids = tuple[tuple[int, ...], tuple[Ratio, ...]]

# fmt: off
_TABLE_1 = {
    #            C in stage 0 to 3,    blocks,        K,            E,     head
    'tiny':   ((48,  96, 240, 384), (2, 2,  6, 3), (3, 3, 3, 3), (8, 8, 4, 4), 48),  # noqa: E501
    'small':  ((64, 128, 320, 512), (2, 3,  8, 3), (3, 3, 3, 3), (8, 8, 4, 4), 64),  # noqa: E501
    'medium': ((64, 128, 320, 512), (3, 6, 18, 3), (5, 3, 5, 3), (8, 8, 4, 4), 64),  # noqa: E501
    'large':  ((64, 128, 320, 640), (3, 8, 27, 3), (3, 3, 3, 3), (8, 8, 4, 4), 64),  # noqa: E501
}
# Not in the paper: 2.5 M parameters, for trainings of hours on a CPU.
_MICRO = (32, 64, 128, 192), (2, 2, 4, 2), (3, 3, 3, 3), (8, 8, 4, 4), 32
# fmt: on
_COLUMNS = ('embed_dims', 'depths', 'kernel_sizes', 'expansions', 'head_dim')
ARCHS = {
    alias: dict(zip(_COLUMNS, row, strict=True))
    for name, row in _TABLE_1.items()
    for alias in (name[0], name)
}
ARCHS['micro'] = dict(zip(_COLUMNS, _MICRO, strict=True))


# The layers that a file may name: norms and activations of mmcv.
NORMS = 'BN', 'BN2d', 'GN', 'IN', 'IN2d', 'SyncBN'
ACTIVATIONS = (
    *('Clamp', 'Clip', 'ELU', 'GELU', 'HSigmoid', 'HSwish', 'LeakyReLU'),
    *('PReLU', 'ReLU', 'ReLU6', 'SiLU', 'Sigmoid', 'Swish', 'Tanh'),
)
# The options of these that a file may set, and their types.
OPTIONS: dict[str, type] = dict(
    **dict.fromkeys(('num_groups', 'num_parameters'), int),
    **dict.fromkeys(('affine', 'inplace', 'track_running_stats'), bool),
    **dict.fromkeys(('requires_grad',), bool),
    **dict.fromkeys(('alpha', 'bias', 'divisor', 'eps', 'init'), float),
    **dict.fromkeys(('max', 'max_value', 'min', 'min_value'), float),
    **dict.fromkeys(('momentum', 'negative_slope'), float),
)
POSITIVE = 'num_groups', 'num_parameters', 'eps', 'divisor'
LAYERS = dict(act_cfg=ACTIVATIONS, norm_cfg=NORMS, out_norm_cfg=NORMS)
INITIALIZATION = dict(type='mmhatnet.FanOutInit')
LARGEST = 4096  # an integer of a file; larger ones exhaust the memory


def check_plain(arguments: Mapping, known: Mapping[str, Parameter]) -> None:
    """Check arguments that may come from an untrusted file.

    mm's registries import whatever a ``type`` names, and call it.

    Args:
        arguments (Mapping): Arguments of a HATNet. A class as a ``type``
            passes, since no file can hold one.
        known (Mapping[str, Parameter]): The arguments that exist.

    Raises:
        ValueError: If an argument is unknown, or is more than numbers, text
            and lists, or names a layer that is not allowed, or a checkpoint.
            The message names the argument.
    """
    for name, value in arguments.items():
        if name not in known:
            raise ValueError(
                f"there is no argument '{name!s:.60}', but {', '.join(known)}"
            )
        default = known[name].default
        if name == 'init_cfg':
            valid = value in (None, INITIALIZATION)
        elif name in LAYERS:
            optional = value is None and default is None
            valid = optional or _is_layer(value, LAYERS[name])
        elif name == 'arch' and isinstance(value, Mapping):
            valid = all(_is_plain(part) for part in value.values())
        else:
            valid = _is_plain(value)
        if isinstance(default, bool):
            valid = isinstance(value, bool)
        if not valid:
            allowed = f'plain, such as {default!r}'
            if name in LAYERS:
                kinds = ', '.join(LAYERS[name])
                allowed = f'a dict of numbers with type {kinds}'
            elif name == 'init_cfg':
                allowed = f'None or {INITIALIZATION}'
            raise ValueError(
                f'{name} from a file may not be {value!r:.200}; it may be '
                f'{allowed}'
            )


def _is_layer(cfg: Any, names: Sequence[str]) -> bool:
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        return False
    options = dict(cfg)
    kind = options.pop('type')
    return isinstance(kind, type) or (
        kind in names and all(_is_option(*pair) for pair in options.items())
    )


def _is_option(name: str, value: Any) -> bool:
    kind = OPTIONS.get(name)
    if type(value) is not kind and (kind, type(value)) != (float, int):
        return False
    return _is_plain(value) and (name not in POSITIVE or value > 0)


def _is_plain(value: object) -> bool:
    """Whether a value is text, None, a number, or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, int | float):
        return -LARGEST <= value <= LARGEST
    return value is None or isinstance(value, str)


def as_plain(value: Any) -> Any:
    """Convert an array or a tensor to a list or a number; keep the rest."""
    return value.tolist() if hasattr(value, 'tolist') else value


def as_integers(values: object) -> tuple[int, ...]:
    """Convert a list, an array or a tensor of integers; () if it is none."""
    values = as_plain(values)
    if not isinstance(values, Iterable) or isinstance(values, bool | Mapping):
        return ()
    values = tuple(map(as_plain, values))
    if not all(map(is_integer, values)):
        return ()
    return tuple(map(int, values))


def is_integer(value: object) -> bool:
    """Whether a value is an integer, including numpy's, but not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_arch(arch: str | Mapping) -> dict:
    """Look an architecture up, or check one of a user."""
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ValueError(
                f"unknown arch '{arch}': choose from "
                f'{", ".join(map(repr, ARCHS))}, or give a dict'
            )
        return ARCHS[arch.lower()]
    if not isinstance(arch, Mapping) or set(arch) != set(_COLUMNS):
        got = list(arch) if isinstance(arch, Mapping) else arch
        raise ValueError(
            f'arch is a name or a dict with the keys {sorted(_COLUMNS)}; '
            f'got {got}'
        )
    checked = {key: as_integers(arch[key]) for key in _COLUMNS[:-1]}
    for key, values in checked.items():
        if len(values) != STAGES or min(values) < 1:
            raise ValueError(
                f"arch['{key}'] needs {STAGES} positive integers, one per "
                f'stage; got {arch[key]!r}'
            )
    head_dim = arch['head_dim']
    for dims in checked['embed_dims']:
        if not is_integer(head_dim) or head_dim < 1 or dims % head_dim:
            raise ValueError(
                f'head_dim={head_dim!r} has to divide every entry of '
                f'embed_dims={checked["embed_dims"]}; it does not divide '
                f'{dims}'
            )
    if not all(size % 2 for size in checked['kernel_sizes']):
        raise ValueError(
            f'kernel_sizes has to be odd, got {checked["kernel_sizes"]}'
        )
    return dict(checked, head_dim=int(head_dim))


def check_ratios(values: Sequence[int | str]) -> tuple[Ratio, ...]:
    """Check G2 of the stages 0 to 2, or 'auto'."""
    auto = (AUTO,) * (STAGES - 1)
    if as_plain(values) in (AUTO, auto, list(auto)):
        return auto
    return check_grids("ds_ratios (G2), if it is not 'auto',", values)


def check_grids(name: str, values: Sequence[int | str]) -> tuple[int, ...]:
    """Check G1 of the stages 0 to 2, or G2 that is not 'auto'."""
    checked = as_integers(values)
    if (
        len(checked) != STAGES - 1
        or not 1 <= min(checked) <= max(checked) < TOO_LARGE
    ):
        raise ValueError(
            f'{name} needs three positive integers below 2**31, one for each '
            f'stage with H-MHSA, such as (8, 8, 8); got {values!r:.200}'
        )
    return checked


def check_out_indices(out_indices: Sequence[int] | int) -> tuple[int, ...]:
    """Check which stages return features, and count them from 0."""
    found = [out_indices] if is_integer(out_indices) else out_indices
    indices = tuple(i + STAGES if i < 0 else i for i in as_integers(found))
    if (
        not indices
        or list(indices) != sorted(set(indices))
        or not set(indices) <= set(range(STAGES))
    ):
        raise ValueError(
            f'out_indices are increasing stages from 0 to {STAGES - 1}, got '
            f'{out_indices!r}'
        )
    return indices


def check_attn_types(attn_types: Sequence[str]) -> tuple[str, ...]:
    """Check the attention of the stages 0 to 2."""
    types = tuple(attn_types) if isinstance(attn_types, Iterable) else ()
    if len(types) != STAGES - 1 or any(
        name not in ('h-mhsa', 'window') for name in types
    ):
        raise ValueError(
            "attn_types needs 'h-mhsa' or 'window' three times, for the "
            f'stages 0 to 2; got {attn_types!r}'
        )
    return types


def check_frozen_stages(
    frozen_stages: int, out_indices: tuple[int, ...]
) -> int:
    """Check how many stages are frozen of those that are built."""
    stages = max(out_indices) + 1
    if not is_integer(frozen_stages) or not -1 <= frozen_stages <= stages:
        raise ValueError(
            'frozen_stages must be -1 (nothing), 0 (the stem) or the number '
            f'of stages after it, up to the {stages} that '
            f'out_indices={out_indices} needs; got {frozen_stages!r}'
        )
    return int(frozen_stages)


def check_stem_stride(stem_stride: int) -> int:
    """Check that the stride of the stem is 2 or 4."""
    if not is_integer(stem_stride) or stem_stride not in (2, 4):
        raise ValueError(f'stem_stride is 2 or 4, got {stem_stride!r:.200}')
    return int(stem_stride)


def check_images(shape: Sequence[int], stride: int) -> None:
    """Check that images, (N, C, H, W), have a token in the last stage."""
    if len(shape) != 4:
        raise ValueError(
            f'HATNet needs images of the shape (N, C, H, W), got {(*shape,)}'
        )
    height, width = shape[2:]
    if height < stride or width < stride:
        raise ValueError(
            f'HATNet needs images of at least {stride}x{stride} pixels, got '
            f'{height}x{width} (H x W)'
        )


def check_numbers(
    in_channels: int, drop_rate: float, drop_path_rate: float
) -> None:
    """Check the channels of the images and the rates of dropping."""
    if not is_integer(in_channels) or in_channels < 1:
        raise ValueError(
            f'in_channels needs a positive integer, got {in_channels!r}'
        )
    rates = dict(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
    for name, rate in rates.items():
        if not isinstance(rate, Real) or not 0 <= rate < 1:
            raise ValueError(f'{name} needs 0 <= {name} < 1, got {rate!r}')


def complete_grids(backbone: Any, grids: Sequence[Grids]) -> list[Grids]:
    """Complete settings as a backbone stores them, without duplicates.

    Args:
        backbone (HATNet): The backbone; its setting stays.
        grids (Sequence[Grids]): Pairs of G1 and G2. None instead of either
            means that of the backbone; G2 may be 'auto'.

    Returns:
        list[Grids]: The settings in order.

    Raises:
        ValueError: If one is not valid.
    """
    configured = (backbone.grid_sizes, backbone.ds_ratios)
    complete: dict[Grids, None] = {}
    for setting in grids:
        backbone.set_grids(*setting)
        complete[backbone.grid_sizes, backbone.ds_ratios] = None
        backbone.set_grids(*configured)
    return list(complete)
