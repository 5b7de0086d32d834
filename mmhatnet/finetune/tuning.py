"""G1 and G2 of a trained model, which it can change without a training."""

import time
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path

from ..analysis.sweep import build_tester, evaluate_grids, nearby_grids
from ..engine.runner import end_workers
from ..models.archs import Grids
from .plan import Plan
from .training import prepare

HEADING = '# G1 and G2 that were better for the validation images.\n'


def tune_grids(plan: Plan, config: Path, weights: Path, seconds: float) -> str:
    """Try other G1 and G2 on the validation images, and write the best ones.

    They are written at the end of the config, and into the plan.

    Args:
        plan (Plan): The plan, which is changed.
        config (Path): Its config.
        weights (Path): A checkpoint.
        seconds (float): When they are over, no other setting is tried.

    Returns:
        str: What was chosen, and why.
    """
    if HEADING in config.read_text('utf-8'):
        found = prepare(config).model.backbone
        plan.grid_sizes, plan.ds_ratios = found.grid_sizes, found.ds_ratios
        return 'as an earlier call found them'
    if 2 * plan.evaluation > seconds:
        return f'{plan.reasons["G1, G2"]}; no time for others'
    cfg = prepare(config, 'test')
    for name in ('dataloader', 'evaluator'):
        cfg[f'test_{name}'] = cfg[f'val_{name}']
    runner = build_tester(cfg, str(weights))
    backbone = runner.model.backbone
    configured = backbone.grid_sizes, backbone.ds_ratios

    def changes(grids: Grids) -> int:
        return sum(x != y for x, y in zip(grids, configured, strict=True))

    def measure(grids: Grids) -> float:
        return evaluate_grids(runner, grids).get(plan.about.metric, 0.0)

    every = sorted(dict.fromkeys(nearby_grids(backbone)), key=changes)
    scores = _measure_in_time(every, measure, seconds)
    end_workers(runner)
    best = max(scores, key=lambda grids: scores[grids])
    gain, others = scores[best] - scores[configured], len(scores) - 1
    if gain <= margin(plan):
        before = plan.reasons['G1, G2']
        why = f'none of {others} others was clearly better'
        return f'{before}; {why if others else "no time for others"}'
    plan.grid_sizes, plan.ds_ratios = best
    with open(config, 'a', encoding='utf-8') as file:
        setting = f'grid_sizes={best[0]}, ds_ratios={best[1]}'
        file.write(f"{HEADING}model['backbone'].update({setting})\n")
    why = f'better by {gain:.3g} than those of the training'
    return f'{best[0]} and {best[1]}, {why}'


def margin(plan: Plan) -> float:
    """Compute the gain of the metric that may be chance.

    It is the largest standard deviation that an accuracy can have.
    """
    largest = 1 if plan.detects else 100
    return 0.5 * largest / sqrt(plan.evaluated)


def _measure_in_time(
    every: Sequence[Grids], measure: Callable[[Grids], float], seconds: float
) -> dict[Grids, float]:
    """Measure the first setting, and others as long as there is time."""
    start, scores = time.monotonic(), {every[0]: measure(every[0])}
    for number, grids in enumerate(every[1:], 1):
        elapsed = time.monotonic() - start
        if elapsed * (number + 1) / number > seconds:
            break
        scores[grids] = measure(grids)
    return scores
