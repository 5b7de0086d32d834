"""The sizes of HAT-Net (Table 1 of the paper), and checks of arguments."""

from collections.abc import Mapping, Sequence
from numbers import Integral

STAGES = 4
STRIDE = 32

# fmt: off
_TABLE_1 = {
    #            C in stage 0 to 3,    blocks,        K,            E,     head
    'tiny':   ((48,  96, 240, 384), (2, 2,  6, 3), (3, 3, 3, 3), (8, 8, 4, 4), 48),  # noqa: E501
    'small':  ((64, 128, 320, 512), (2, 3,  8, 3), (3, 3, 3, 3), (8, 8, 4, 4), 64),  # noqa: E501
    'medium': ((64, 128, 320, 512), (3, 6, 18, 3), (5, 3, 5, 3), (8, 8, 4, 4), 64),  # noqa: E501
    'large':  ((64, 128, 320, 640), (3, 8, 27, 3), (3, 3, 3, 3), (8, 8, 4, 4), 64),  # noqa: E501
}
# fmt: on
_COLUMNS = ('embed_dims', 'depths', 'kernel_sizes', 'expansions', 'head_dim')
ARCHS = {
    alias: dict(zip(_COLUMNS, row, strict=True))
    for name, row in _TABLE_1.items()
    for alias in (name[0], name)
}


def check_arch(arch: str | Mapping) -> dict:
    """Look an architecture up, or check one that a user defines.

    Args:
        arch (str | Mapping): As for :class:`~mmhatnet.models.HATNet`.

    Returns:
        dict: With the keys of ``ARCHS['tiny']``.

    Raises:
        ValueError: If the name is unknown or an entry is illegal.
    """
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ValueError(
                f"unknown arch '{arch}': choose from "
                f'{", ".join(map(repr, ARCHS))}, or give a dict'
            )
        return ARCHS[arch.lower()]
    if not isinstance(arch, Mapping) or set(arch) != set(_COLUMNS):
        got = sorted(arch) if isinstance(arch, Mapping) else arch
        raise ValueError(
            f'arch is a name or a dict with the keys {sorted(_COLUMNS)}; '
            f'got {got}'
        )
    for key in _COLUMNS[:-1]:
        if (
            not isinstance(arch[key], Sequence)
            or len(arch[key]) != STAGES
            or min(arch[key]) < 1
        ):
            raise ValueError(
                f"arch['{key}'] needs {STAGES} positive entries, one per "
                f'stage; got {arch[key]}'
            )
    for dims in arch['embed_dims']:
        if arch['head_dim'] < 1 or dims % arch['head_dim']:
            raise ValueError(
                f'head_dim={arch["head_dim"]} has to divide every entry of '
                f'embed_dims={tuple(arch["embed_dims"])}; it does not divide '
                f'{dims}'
            )
    for kernel_size in arch['kernel_sizes']:
        if kernel_size % 2 == 0:
            raise ValueError(
                f'kernel_sizes has to be odd, got {arch["kernel_sizes"]}'
            )
    return dict(arch)


def check_grids(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Check G1 or G2 of the stages 0 to 2.

    Args:
        name (str): Name of the argument, for the message.
        values (Sequence[int]): Three positive integers.

    Returns:
        tuple[int, ...]: The values.

    Raises:
        ValueError: If they are anything else.
    """
    if (
        not isinstance(values, Sequence)
        or len(values) != STAGES - 1
        or not all(
            isinstance(value, Integral)
            and not isinstance(value, bool)
            and value > 0
            for value in values
        )
    ):
        raise ValueError(
            f'{name} needs three positive integers, one for each stage with '
            f'H-MHSA, such as (8, 8, 8); got {values!r}'
        )
    return tuple(int(value) for value in values)


def check_out_indices(out_indices: Sequence[int] | int) -> tuple[int, ...]:
    """Check which stages return features.

    Args:
        out_indices (Sequence[int] | int): Stages; negative ones count from
            the end.

    Returns:
        tuple[int, ...]: The stages, counted from 0.

    Raises:
        ValueError: If they are not increasing stages of the network.
    """
    if isinstance(out_indices, int):
        out_indices = (out_indices,)
    indices = tuple(i + STAGES if i < 0 else i for i in out_indices)
    if (
        not indices
        or list(indices) != sorted(set(indices))
        or not set(indices) <= set(range(STAGES))
    ):
        raise ValueError(
            f'out_indices are increasing stages from 0 to {STAGES - 1}, got '
            f'{out_indices}'
        )
    return indices


def check_attn_types(attn_types: Sequence[str]) -> tuple[str, ...]:
    """Check the attention of the stages 0 to 2.

    Args:
        attn_types (Sequence[str]): 'h-mhsa' or 'window', three times.

    Returns:
        tuple[str, ...]: The types.

    Raises:
        ValueError: If they are anything else.
    """
    if (
        isinstance(attn_types, str)
        or len(attn_types) != STAGES - 1
        or not set(attn_types) <= {'h-mhsa', 'window'}
    ):
        raise ValueError(
            "attn_types needs 'h-mhsa' or 'window' three times, for the "
            f'stages 0 to 2; got {attn_types!r}'
        )
    return tuple(attn_types)


def check_frozen_stages(
    frozen_stages: int, out_indices: tuple[int, ...]
) -> int:
    """Check how many stages are frozen.

    Args:
        frozen_stages (int): -1 for nothing, 0 for the stem, k for the stem
            and k stages.
        out_indices (tuple[int, ...]): The stages that return features; later
            ones are not built and cannot be frozen.

    Returns:
        int: ``frozen_stages``.

    Raises:
        ValueError: If there are fewer stages.
    """
    stages = max(out_indices) + 1
    if not -1 <= frozen_stages <= stages:
        raise ValueError(
            f'frozen_stages is -1 (nothing), 0 (the stem) or up to {stages}, '
            f'the stages that out_indices={out_indices} needs; got '
            f'{frozen_stages}'
        )
    return frozen_stages


def check_image_size(height: int, width: int) -> None:
    """Check that the last stage has at least one token.

    Args:
        height (int): Of the image in pixels.
        width (int): Of the image in pixels.

    Raises:
        ValueError: If one of them is less than 32.
    """
    if height < STRIDE or width < STRIDE:
        raise ValueError(
            f'HATNet needs images of at least {STRIDE}x{STRIDE} pixels, got '
            f'{height}x{width} (H x W)'
        )
