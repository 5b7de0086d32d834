"""Choose G1 and G2 for a machine and a budget.

``tools/analysis_tools/tune_grids.py`` is a command over this module.
"""

from collections.abc import Sequence
from itertools import product
from statistics import median

from mmengine.config import Config

from ..models.archs import Ratio, as_integers
from .sweep import Grids, build_hatnet, setting_of

FACTORS = (0.5, 1, 2)
UNITS = dict(latency=(1e-3, 'ms'), memory=(2**20, 'MiB'))


def nearby_grids(cfg: Config) -> list[Grids]:
    """List settings around the configured one.

    Args:
        cfg (Config): The config of a model with a HATNet.

    Returns:
        list[Grids]: All pairs of half, once and twice G1 and G2; G2 stays if
        it is 'auto'.

    Raises:
        ValueError: If the backbone is not a HATNet.
    """
    backbone = build_hatnet(cfg)

    def scaled(sides: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [
            tuple(max(1, round(side * factor)) for side in sides)
            for factor in FACTORS
        ]

    ratios: Sequence[tuple[Ratio, ...]] = [backbone.ds_ratios]
    if numbers := as_integers(backbone.ds_ratios):
        ratios = scaled(numbers)
    return list(product(scaled(backbone.grid_sizes), ratios))


def comparable_rows(
    rows: Sequence[dict], grids: Sequence[Grids], shape: tuple[int, int]
) -> list[dict]:
    """Select rows, and make their times comparable.

    A busy machine changes the time of the same setting from row to row; its
    ratio to the configured one, which took turns with it, holds.

    Args:
        rows (Sequence[dict]): The rows of
            :func:`mmhatnet.analysis.sweep.sweep_grids`.
        grids (Sequence[Grids]): The settings to keep.
        shape (tuple[int, int]): Height and width to keep.

    Returns:
        list[dict]: Copies, with the ``latency`` that the ratio and the median
        time of the configured setting give.
    """
    rows = [
        row
        for row in rows
        if (row['height'], row['width']) == shape and setting_of(row) in grids
    ]
    configured = median(row['latency'] / row['latency_ratio'] for row in rows)
    return [
        {**row, 'latency': configured * row['latency_ratio']} for row in rows
    ]


def within_budget(
    rows: Sequence[dict],
    latency: float | None = None,
    memory: float | None = None,
) -> list[dict]:
    """Find the settings within a budget.

    Args:
        rows (Sequence[dict]): The result of :func:`comparable_rows`.
        latency (float, optional): Maximum time of the backbone for one image,
            in milliseconds. Defaults to None, no limit.
        memory (float, optional): Maximum memory in MiB, likewise.

    Returns:
        list[dict]: Their rows.

    Raises:
        ValueError: If there is none, or memory cannot be measured on this
            machine.
    """
    left = list(rows)
    for name, budget in (('latency', latency), ('memory', memory)):
        if budget is None:
            continue
        if any(name not in row for row in rows):
            raise ValueError(f'the {name} cannot be measured on this machine')
        unit, symbol = UNITS[name]
        lowest = min(row[name] for row in left) / unit
        left = [row for row in left if row[name] <= budget * unit]
        if not left:
            raise ValueError(
                f'no setting has a {name} of at most {budget:g} {symbol}; the '
                f'lowest is {lowest:.4g} {symbol}'
            )
    return left
