"""The content of ``result.json``: metrics beside the published ones."""

import json
from pathlib import Path

from .experiments import METRICS, Experiment

# What has to be sent with the metrics.
REQUIRED = {
    *('all_metrics', 'test_images', 'curve', 'seconds', 'training'),
    *('sha256', 'commit', 'changes', 'machine', 'versions', 'gpus'),
}


def read_result(path: Path) -> dict:
    """Read a ``result.json``; empty if the file is absent or damaged."""
    try:
        result = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def compare(
    printed: dict[str, float], measured: dict[str, float]
) -> dict[str, dict]:
    """Compare metrics, by mm's names, with the published ones."""
    table = {}
    for name, value in printed.items():
        key, factor, spread = METRICS[name]
        if key.startswith('coco/') and key not in measured:
            measured = {**measured, key: 0}  # mmdet, if nothing is detected
        found = round(measured[key] * factor, 2)
        difference = round(found - value, 2)
        table[name] = dict(
            printed=value,
            measured=found,
            difference=difference,
            spread=spread,
            within=abs(difference) <= spread,
        )
    return table


def check_result(result: dict, experiment: Experiment, source: Path) -> None:
    """Check a ``result.json`` of others; a ValueError says what is wrong."""
    if result.get('smoke') is not False:
        raise ValueError(f'{source} is of a smoke test')
    missing = REQUIRED - result.keys()
    if missing:
        raise ValueError(f'{source} lacks {", ".join(sorted(missing))}')
    for key in ('table', 'model', 'options'):
        # JSON has lists, not tuples.
        expected = json.loads(json.dumps(getattr(experiment, key)))
        if result.get(key) != expected:
            raise ValueError(
                f'{source}: {key} is {result.get(key)!r} and not {expected!r}'
            )
    try:
        expected = compare(experiment.printed, result['all_metrics'])
        fits = expected == result.get('metrics') and all(
            0 <= metric['measured'] <= 100 for metric in expected.values()
        )
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f'{source}: the metrics do not fit {experiment.name}')
