"""The result of a run: metrics beside print, curves, time and machine."""

import json
import re
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ..analysis.timing import describe_machine
from ..stack import describe_versions
from .experiments import METRICS, Experiment

# The time of a line of mm's logs.
LINE = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ', re.M)
# What others have to send with their metrics.
KINDS = dict(
    commit=str | None, machine=str, versions=dict, gpus=int, seconds=int | None
)


def read_metrics(work_dir: Path) -> dict[str, float]:
    """Read the metrics of the last test, which mm's logs hold.

    Args:
        work_dir (Path): The folder of the test.

    Returns:
        dict[str, float]: The metrics by mm's names.

    Raises:
        FileNotFoundError: If there was none.
    """
    logs = sorted(work_dir.glob('*/*.json'))
    if not logs:
        raise FileNotFoundError(f'no test in {work_dir}')
    # All processes write this file, one after the other or both at once.
    metrics, _ = json.JSONDecoder().raw_decode(
        logs[-1].read_text('utf-8', 'replace').strip()
    )
    return {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float)
    }


def read_result(path: Path) -> dict:
    """Read a ``result.json``.

    Args:
        path (Path): The file.

    Returns:
        dict: Its content; empty if it is absent or damaged.
    """
    try:
        result = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def compare(
    printed: dict[str, float], measured: dict[str, float]
) -> dict[str, dict]:
    """Compare metrics with print.

    Args:
        printed (dict[str, float]): By the names of the metafiles.
        measured (dict[str, float]): By mm's names.

    Returns:
        dict[str, dict]: For each metric ``printed``, ``measured``,
        ``difference``, the assumed ``spread`` of trainings, and ``within``
        it.
    """
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


def check_result(result: dict, experiment: Experiment, source: str) -> None:
    """Check the content of a ``result.json`` that others may have sent.

    Args:
        result (dict): The content.
        experiment (Experiment): Its row.
        source (str): The file, for the message.

    Raises:
        ValueError: If it is not of this row, or of a smoke test, or if its
            numbers do not fit each other.
    """
    if result.get('smoke') is not False:
        raise ValueError(f'{source} is of a smoke test')
    metrics: Any = result.get('metrics')
    try:
        measured = {
            METRICS[name][0]: entry['measured'] / METRICS[name][1]
            for name, entry in metrics.items()
        }
        fits = compare(experiment.printed, measured) == metrics and all(
            0 <= entry['measured'] <= 100 for entry in metrics.values()
        )
    except (AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f'{source}: the metrics do not fit {experiment.name}')
    options = json.loads(json.dumps(experiment.options))  # lists, not tuples
    expected = dict(
        table=experiment.table, model=experiment.model, options=options
    )
    for key, value in expected.items():
        if result.get(key) != value:
            raise ValueError(
                f'{source}: {key} is {result.get(key)!r} and not {value!r}'
            )
    for key, kinds in KINDS.items():
        if not isinstance(result.get(key, ...), kinds):
            raise ValueError(f'{source} has no {key}, or an odd one')


def measure_seconds(work_dir: Path) -> int:
    """Measure how long a training took, with the parts that were killed.

    Args:
        work_dir (Path): The folder of the training.

    Returns:
        int: From the first to the last line of each of mm's logs.
    """
    total = timedelta()
    for log in work_dir.glob('*/*.log'):
        if log.stem != log.parent.name:
            continue  # not mm's
        times = [
            datetime.strptime(text, '%Y/%m/%d %H:%M:%S')
            for text in LINE.findall(log.read_text('utf-8', 'replace'))
        ]
        if times:
            total += times[-1] - times[0]
    return round(total.total_seconds())


def draw_curves(work_dir: Path) -> Figure | None:
    """Draw the loss and the metrics of a training, over its resumed parts.

    Args:
        work_dir (Path): The folder of the training.

    Returns:
        Figure, optional: None if there are no logs.
    """
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text('utf-8').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # what a kill left of a line
            step = entry.get('step')
            keys = {metric[0] for metric in METRICS.values()}
            for key in ('loss', 'lr', *keys):
                if step is not None and key in entry:
                    curves.setdefault(key, {})[step] = entry[key]
    if not curves:
        return None
    figure = Figure(figsize=(4 * len(curves), 3), layout='constrained')
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (key, values) in zip(axes, curves.items(), strict=True):
        axis.plot(*zip(*sorted(values.items()), strict=True))
        axis.set(title=key, xlabel='step')
        axis.grid(alpha=0.3)
    return figure


def describe_run() -> dict:
    """Describe the versions, the commit and the machine of a result.

    Returns:
        dict: ``versions``, ``commit`` (None outside of a clone; it ends with
        '-dirty' if files were changed) and ``machine``.
    """
    git = subprocess.run(
        [
            'git',
            'describe',
            '--always',
            '--abbrev=40',
            '--exclude=*',
            '--dirty',
        ],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return dict(
        versions=describe_versions(),
        commit=git.stdout.strip() or None,
        machine=describe_machine(device),
    )
