"""What mm's logs say about a training or a test."""

import json
from math import isfinite
from pathlib import Path
from statistics import median

from mmengine.config import Config

from mmhatnet.utils.config import read_config

# The number of points that show the curve of the loss.
MAX_LOSSES = 200


def read_metrics(work_dir: Path) -> dict[str, float]:
    """Read the metrics of the last test in a folder, by mm's names."""
    text = max(work_dir.glob('*/*.json')).read_text('utf-8', 'replace')
    # All processes write this file, one after the other or both at once.
    metrics, _ = json.JSONDecoder().raw_decode(text.strip())
    return keep_numbers(metrics)


def read_training_config(work_dir: Path) -> Config:
    """Read the last config that a training wrote into its folder."""
    configs = sorted(work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f'no training in {work_dir}')
    return read_config(configs[-1])


def read_logs(work_dir: Path) -> tuple[dict[int, dict], dict[int, dict]]:
    """Read what a training logged, over its resumed parts.

    It is what the validations found, by iterations or, if the training counts
    epochs, by epochs; and the losses, by iterations.
    """
    validations: dict[int, dict] = {}
    losses: dict[int, dict] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text('utf-8', 'replace').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the rest of a line after a kill
            if isinstance(entry, dict) and 'step' in entry:
                points = losses if 'loss' in entry else validations
                points[entry.pop('step')] = entry
    return validations, losses


def read_curve(work_dir: Path) -> list[dict]:
    """Read the metrics of each validation, then the losses of some steps."""
    validations, losses = read_logs(work_dir)
    every = max(1, -(-len(losses) // MAX_LOSSES))
    points = sorted(validations.items())
    for step in sorted(losses)[::-every][::-1]:  # with the last
        shown = {key: losses[step].get(key) for key in ('loss', 'lr', 'epoch')}
        points.append((step, shown))
    return [dict(step=step, **keep_numbers(point)) for step, point in points]


def read_seconds(work_dir: Path) -> int | None:
    """Read how long the iterations of a training took, without validations."""
    _, losses = read_logs(work_dir)
    times = [point['time'] for point in losses.values() if 'time' in point]
    return round(max(losses) * median(times)) if times else None


def keep_numbers(entry: dict) -> dict[str, float]:
    """Keep the finite numbers of an entry of mm's logs, without times."""
    return {
        key: value
        for key, value in entry.items()
        if isinstance(value, int | float) and isfinite(value)
        if 'time' not in key
    }
