"""Choose G1 and G2 for a machine and a budget.

``tools/analysis_tools/tune_grids.py`` is a command over this module.
"""

from collections.abc import Sequence
from itertools import product

from mmengine.config import Config

from ..models.archs import Ratio, as_integers
from .sweep import Grids, build_hatnet, main_metric

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


def choose_grids(
    cfg: Config,
    rows: Sequence[dict],
    latency: float | None = None,
    memory: float | None = None,
) -> dict:
    """Find the best setting within a budget.

    Args:
        cfg (Config): The config, which tells the metric.
        rows (Sequence[dict]): The rows of
            :func:`mmhatnet.analysis.sweep.sweep_grids` for one shape, with a
            metric.
        latency (float, optional): Most milliseconds of the backbone with one
            image. Defaults to None, any.
        memory (float, optional): Most MiB, likewise.

    Returns:
        dict: The row with the highest metric; of equal ones, the fastest.

    Raises:
        ValueError: If no setting is within the budget, or memory cannot be
            measured on this machine.
    """
    metric = main_metric(cfg, rows)
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
    return max(left, key=lambda row: (row[metric], -row['latency']))
