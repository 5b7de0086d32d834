"""The result of a run: metrics beside print, curves, time and machine."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..engine.provenance import are_starts
from .experiments import METRICS, Experiment

# The time of a line of mm's logs.
LINE = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ', re.M)
# What others have to send with their metrics.
KINDS = dict(
    commit=str | None,
    changes=str | None,
    machine=str,
    versions=dict,
    gpus=int,
    seconds=int | None,
    training=list,
    sha256=dict,
    test_images=int,
    all_metrics=dict,
    curve=list,
)
HASHED = {'config', 'checkpoint', 'pretrained'}
DIGEST = re.compile('[0-9a-f]{64}')
# So many points of the loss show its curve.
MAX_LOSSES = 200


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
    for key in _find_odd(result):
        raise ValueError(f'{source} has no {key}, or an odd one')
    metrics: Any = result.get('metrics')
    try:
        measured = {
            METRICS[name][0]: entry['measured'] / METRICS[name][1]
            for name, entry in metrics.items()
        }
        fits = all(
            compare(experiment.printed, found) == metrics
            for found in (measured, result['all_metrics'])
        ) and all(0 <= entry['measured'] <= 100 for entry in metrics.values())
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


def _find_odd(result: dict) -> Iterator[str]:
    """Find what others have to send and did not, or not as it should be."""

    def are_digests(values: Iterable) -> bool:
        return all(
            value is None
            or (isinstance(value, str) and DIGEST.fullmatch(value))
            for value in values
        )

    def have_numbers(points: Iterable) -> bool:
        return all(
            isinstance(point, dict) and all(map(_is_number, point.values()))
            for point in points
        )

    for key, kinds in KINDS.items():
        if not isinstance(result.get(key, ...), kinds):
            yield key
            return
    sha256, count = result['sha256'], result['test_images']
    fine = dict(
        changes=are_digests([result['changes']]),
        sha256=sha256.keys() == HASHED and are_digests(sha256.values()),
        test_images=_is_number(count) and count > 0,
        training=are_starts(result['training']),
        all_metrics=have_numbers([result['all_metrics']]),
        curve=have_numbers(result['curve'])
        and all('step' in point for point in result['curve']),
    )
    yield from (key for key, right in fine.items() if not right)


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


def read_logs(work_dir: Path) -> tuple[dict[int, dict], dict[int, dict]]:
    """Read what a training logged, over its resumed parts.

    Args:
        work_dir (Path): The folder of the training.

    Returns:
        tuple[dict[int, dict], dict[int, dict]]: What the validations found,
        by iterations or, if the training counts epochs, by epochs; and the
        losses, by iterations.
    """
    validations: dict[int, dict] = {}
    losses: dict[int, dict] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text('utf-8', 'replace').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # what a kill left of a line
            if isinstance(entry, dict) and 'step' in entry:
                points = losses if 'loss' in entry else validations
                points[entry.pop('step')] = entry
    return validations, losses


def read_curve(work_dir: Path) -> list[dict]:
    """Read the curve of a training, as numbers.

    Args:
        work_dir (Path): The folder of the training.

    Returns:
        list[dict]: ``step`` and the metrics of each validation, then ``step``,
        ``loss``, ``lr`` and ``epoch``, if there are epochs, of some steps. A
        step is as in :func:`read_logs`.
    """
    validations, losses = read_logs(work_dir)
    every = max(1, -(-len(losses) // MAX_LOSSES))
    some = sorted(losses)[::-every][::-1]  # with the last
    shown = [
        {key: losses[step].get(key) for key in ('loss', 'lr', 'epoch')}
        for step in some
    ]
    points = [*sorted(validations.items()), *zip(some, shown, strict=True)]
    return [dict(step=step, **keep_numbers(point)) for step, point in points]


def keep_numbers(entry: dict) -> dict[str, float]:
    """Keep the metrics of an entry of mm's logs.

    Args:
        entry (dict): The entry.

    Returns:
        dict[str, float]: The finite numbers, without times.
    """
    return {
        key: value
        for key, value in entry.items()
        if _is_number(value) and 'time' not in key
    }


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -inf < value < inf
    )


def draw_curves(work_dir: Path) -> Figure | None:
    """Draw the loss and the metrics of a training, over its resumed parts.

    Args:
        work_dir (Path): The folder of the training.

    Returns:
        Figure, optional: None if there are no logs.
    """
    validations, losses = read_logs(work_dir)
    names = [metric[0] for metric in METRICS.values()]
    curves: dict[str, dict[int, float]] = {}
    for points, keys in (losses, ['loss', 'lr']), (validations, names):
        for key in keys:
            found = {step: x[key] for step, x in points.items() if key in x}
            if found:
                curves[key] = found
    if not curves:
        return None
    figure = Figure(figsize=(4 * len(curves), 3), layout='constrained')
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (key, values) in zip(axes, curves.items(), strict=True):
        axis.plot(*zip(*sorted(values.items()), strict=True))
        axis.set(title=key, xlabel='step')
        axis.grid(alpha=0.3)
    return figure
