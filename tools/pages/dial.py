#!/usr/bin/env python
"""Shows in docs/grids.md what G1, G2 and the size of images cost and give."""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import mean
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import NamedTuple

from common import (
    DOCS,
    ROOT,
    fill_page,
    make_figure,
    plot_lines,
    read_json,
    save_figure,
    span,
    write_json,
)

from mmhatnet.analysis.curve import scale_tests
from mmhatnet.analysis.report import markdown_table, show_ratios
from mmhatnet.analysis.sweep import build_tester, evaluate_grids, name_sizes
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import RUN, read_provenance
from mmhatnet.runtime import OnnxModel
from mmhatnet.utils.config import read_config

FOLDER = DOCS / 'sweeps' / 'dial'
CONFIGS = ROOT / 'configs' / 'evidence'
# The settings that are tested: each G2 with each factor of a task.
RATIOS = (4, 2, 1), (8, 4, 2), (16, 8, 4), (32, 16, 8)
Setting = tuple[tuple[int, ...], float]  # G2, and factor of the sizes
# These are tested with all settings, the others with the one they learned.
TESTED = 'fixed', 'G2 drawn', 'size drawn', 'both drawn', 'sandwich'
SANDWICH = {
    'custom_hooks.1.type': 'mmhatnet.SandwichGridsHook',
    'custom_hooks.1.distill': 1.0,
}
# Columns of the costs, their unit, and the label of an axis.
AXES = (
    ('ms', 1, 'time of the graph (ms)'),
    ('memory', 2**20, 'peak memory of the graph (MiB)'),
)
SCALES = 'custom_hooks.1.scales'
PIPELINE = 'train_dataloader.dataset.pipeline.2.ratio_range'


class Task(NamedTuple):
    """Short trainings that start from the same trained model."""

    config: str  # in configs/evidence
    metric: str  # mm's name
    unit: float  # a point of the metric
    factors: tuple[float, ...]  # of the sizes of test images
    configured: tuple[int, ...]  # G2 of the trained model
    drawing: str  # the option of the sizes in training
    half: Mapping[str, int]  # options for half of the iterations


TASKS = dict(
    shapes=Task(
        'fpn_hatnet-micro-elastic_1xb2-120_demo-480x576',
        *('mIoU', 1.0, (0.5, 0.75, 1.0), (8, 4, 2), SCALES),
        {
            'train_cfg.max_iters': 60,
            'param_scheduler.0.end': 10,
            'param_scheduler.1.begin': 10,
            'param_scheduler.1.end': 60,
        },
    ),
    trees=Task(
        'retinanet_hatnet-micro-elastic_fpn_1xb4-2e_trees',
        *('coco/bbox_mAP_50', 0.01, (0.5, 0.75, 1.0, 1.5)),
        *((16, 8, 4), PIPELINE),
        {
            'train_cfg.max_epochs': 1,
            'param_scheduler.0.end': 10,
            'param_scheduler.1.T_max': 1,
            'param_scheduler.1.end': 1,
        },
    ),
)


def list_arms(task: Task) -> dict[str, tuple[Sequence, Sequence[float]]]:
    """List what is compared: G2 and factors to draw from, by name."""
    usual = [task.configured]
    arms: dict[str, tuple[Sequence, Sequence[float]]] = {
        'fixed': (usual, [1.0]),
        'G2 drawn': (RATIOS, [1.0]),
        'size drawn': (usual, task.factors),
        'both drawn': (RATIOS, task.factors),
        # Three passes in each of half as many iterations.
        'sandwich': (RATIOS, task.factors),
    }
    settings = [(ratio, 1.0) for ratio in (RATIOS[0], RATIOS[-1])]
    sizes = task.factors[0], task.factors[-1]
    settings += [(task.configured, size) for size in sizes if size != 1]
    for ratio, size in settings:
        arms[f'only {describe((ratio, size))}'] = [ratio], [size]
    return arms


def describe(setting: Setting) -> str:
    return f'G2 {name_sizes(setting[0])}, size x {setting[1]:g}'


def train(name: str, arm: str, seed: int, work_dir: Path) -> dict:
    """Train and test one arm in an empty folder."""
    task = TASKS[name]
    config = CONFIGS / f'{task.config}.py'
    ratios, factors = list_arms(task)[arm]
    drawn: object = list(factors)
    if task.drawing == PIPELINE:
        drawn = min(factors), max(factors)
    options = {
        'custom_hooks.1.ds_ratios': list(ratios),
        task.drawing: drawn,
        'randomness.seed': seed,
        'train_cfg.val_interval': 9999,
    }
    if arm == 'sandwich':
        options |= SANDWICH | task.half
    pairs = [
        f'{key}={value}'.replace(' ', '') for key, value in options.items()
    ]
    command = [sys.executable, ROOT / 'tools' / 'train.py', config]
    command += ['--work-dir', work_dir, '--cfg-options', *pairs]
    before = getrusage(RUSAGE_CHILDREN).ru_utime
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = getrusage(RUSAGE_CHILDREN).ru_utime - before
    cfg = read_config(work_dir / config.name)
    checkpoint = (work_dir / 'last_checkpoint').read_text('utf-8')
    # One that was trained for a setting is tested there alone.
    if arm in TESTED:
        ratios, factors = RATIOS, task.factors
    rows = []
    for factor in factors:
        tester = build_tester(scale_tests(cfg, factor), checkpoint)
        for ratio in ratios:
            found = evaluate_grids(tester, (None, ratio))[task.metric]
            rows.append(dict(G2=ratio, factor=factor, metric=found))
    start = read_provenance(work_dir)[-1]
    record = dict(arm=arm, seed=seed, seconds=round(seconds, 1), rows=rows)
    return record | {key: start[key] for key in (*RUN, 'precision')}


class Results(NamedTuple):
    """What is stored of a task."""

    task: Task
    # The trainings of each arm; ``found`` has their metrics in points.
    arms: Mapping[str, list[dict]]
    curve: Mapping  # the costs of all settings
    times: Mapping[Setting, float]  # of the graph, in milliseconds


def read_results(name: str) -> Results:
    task = TASKS[name]
    arms: dict[str, list[dict]] = {arm: [] for arm in list_arms(task)}
    for path in sorted(FOLDER.glob(f'{name}_*.json')):
        record = read_json(path)
        record['found'] = by_setting(record['rows'], 'metric', task.unit)
        arms[record['arm']].append(record)
    if len({len(found) for found in arms.values()}) > 1:
        raise ValueError(f'train all arms of {name} with the same seeds')
    curve = read_json(FOLDER / f'{name}.json')
    return Results(task, arms, curve, by_setting(curve['rows'], 'ms'))


def by_setting(
    rows: Iterable[Mapping], key: str, unit: float = 1
) -> dict[Setting, float]:
    return {(tuple(row['G2']), row['factor']): row[key] / unit for row in rows}


def average(records: Sequence[dict]) -> dict[Setting, float]:
    """The mean of the metric over seeds, for each setting."""
    found = [record['found'] for record in records]
    return {setting: mean(x[setting] for x in found) for setting in found[0]}


def mean_metrics(records: Sequence[dict]) -> list[float]:
    """The mean of the metric over settings, for each seed."""
    found = [record['found'].values() for record in records]
    return [sum(values) / len(values) for values in found]


def compare(results: Results) -> Iterator[tuple[dict, dict]]:
    """Compare all G2 and sizes with sizes alone, at the configured G2.

    Yields:
        tuple[dict, dict]: For each size of images, whose time is the limit:
        a row of the page, and how far 'both drawn' is ahead of other weights.
    """
    task, arms, _, times = results
    for factor in task.factors:
        limit = times[task.configured, factor]
        within = [x for x in times if times[x] <= limit]
        sizes = [x for x in within if x[0] == task.configured]
        best = choose_best(arms['both drawn'], within)
        chosen, mine = zip(*best, strict=True)
        row = {
            'time of': f'size x {factor:g}',
            'ms': f'{limit:.0f}',
            'best in this time': '; '.join(
                map(describe, dict.fromkeys(chosen))
            ),
        }
        ahead = {}
        for arm in ('fixed', 'size drawn'):
            theirs = [best for _, best in choose_best(arms[arm], sizes)]
            ahead[arm] = lead(mine, theirs)
            row[f'ahead of {arm} by'] = show_pairs(ahead[arm])
        yield row, ahead


def choose_best(
    records: Sequence[dict], settings: Sequence[Setting]
) -> Iterator[tuple[Setting, float]]:
    """Choose a setting for each seed by the others, and get its metric.

    So none is the best by chance where it is compared.
    """
    for record in records:
        rest = average([other for other in records if other != record])
        best = max(settings, key=rest.__getitem__)
        yield best, record['found'][best]


def lead(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """How far ours are ahead, in pairs of seeds."""
    return [x - y for x, y in zip(ours, theirs, strict=True)]


def show_pairs(ahead: Sequence[float]) -> str:
    """The mean of differences in pairs of seeds, and their range."""
    return f'{mean(ahead):+.2f} ({span(ahead, "+.2f")})'


def arm_rows(arms: Mapping[str, list[dict]]) -> Iterator[dict]:
    """One row for each arm that is tested with all settings."""
    for arm in TESTED:
        means = mean_metrics(arms[arm])
        ahead = lead(means, mean_metrics(arms['fixed']))
        minutes = mean(record['seconds'] for record in arms[arm]) / 60
        yield {
            'trained with': arm,
            'mean': f'{mean(means):.2f}',
            'worst setting': f'{min(average(arms[arm]).values()):.2f}',
            'mean ahead of fixed by': show_pairs(ahead) if any(ahead) else '',
            'CPU minutes': f'{minutes:.1f}',
        }


def conclude(results: Results) -> Iterator[str]:
    """Say what a point of the metric buys, and how far the ceiling is."""
    task, arms, _, times = results
    both = arms['both drawn']
    mine = average(both)
    top = max(mine, key=mine.__getitem__)
    near = [x for x in mine if mine[x] >= mine[top] - 1]
    low = min(near, key=times.__getitem__)
    yield (
        f'The goal of half the time for a point is '
        f'{"met" if times[top] >= 2 * times[low] else "missed"}: the best '
        f'setting ({describe(top)}) takes {times[top]:.0f} ms, the fastest '
        f'one within a point ({describe(low)}) {times[low]:.0f} ms.'
    )
    small, large = ((RATIOS[i], task.factors[-1]) for i in (0, -1))
    gains = [x['found'][large] - x['found'][small] for x in both]
    yield (
        f'At size x {large[1]:g}, a G2 of {name_sizes(large[0])} takes '
        f'{times[large]:.0f} ms instead of the {times[small]:.0f} ms of '
        f'{name_sizes(small[0])}, and changes the metric by '
        f'{show_pairs(gains)} points.'
    )
    gains = lead(mean_metrics(arms['sandwich']), mean_metrics(both))
    pairs = zip(arms['sandwich'], both, strict=True)
    longer = show_ratios([x['seconds'] / y['seconds'] for x, y in pairs])
    yield (
        f'The mean of *sandwich* differs from that of *both drawn* by '
        f'{show_pairs(gains)} points, in {longer} times the time.'
    )
    ahead = [
        special['found'][x] - general['found'][x]
        for arm in arms.keys() - set(TESTED)
        for special, general in zip(arms[arm], both, strict=True)
        for x in special['found']
    ]
    yield (
        'Weights that learned one setting alone are ahead there by '
        f'{show_pairs(ahead)} points.'
    )


def show_task(results: Results) -> str:
    """Make the part of the page of a task."""
    task, arms, curve, _ = results
    records = [record for found in arms.values() for record in found]
    machines = ', '.join(dict.fromkeys(x['machine'] for x in records))
    seeds = ', '.join(str(record['seed']) for record in arms['fixed'])
    parts = (
        f'`{task.config}`:\n{task.metric}, seeds {seeds}. Trained on '
        f'{machines};\ntimes of the graph on {curve["machine"]}.',
        markdown_table(list(arm_rows(arms))),
        markdown_table([row for row, _ in compare(results)]),
        '\n'.join(
            fill(f'- {line}', 80, subsequent_indent='  ')
            for line in conclude(results)
        ),
    )
    return '\n\n'.join(parts)


def summarize(results: Iterable[Results]) -> str:
    """Say what the sizes give, and what G2 adds to them."""
    found = [ahead for task in results for _, ahead in compare(task)]
    usual, sizes = (
        [gain for ahead in found for gain in ahead[arm]]
        for arm in ('fixed', 'size drawn')
    )
    text = (
        'In the time of each size of images, weights that learned several G2 '
        f'and sizes are ahead of usual ones by {show_pairs(usual)} points, '
        'and ahead of weights that learned several sizes alone by '
        f'{show_pairs(sizes)}. '
    )
    text += (
        'So G2 adds to what the size of images gives.'
        if min(sizes) > 0
        else '**So G2 adds nothing certain to the size of images: let the '
        'size be the dial**, and take a large G2 for large images, which '
        'costs less time (below).'
    )
    return fill(text, 80)


def draw(results: Mapping[str, Results]) -> None:
    """Draw the metric of each task against time and against peak memory."""
    figure, panels = make_figure(
        len(results), 2, size=(9, 4 * len(results)), sharey='row'
    )
    for i, (name, (task, arms, curve, _)) in enumerate(results.items()):
        usual = 'fixed', 'size drawn'
        shown = {f'{x}, G2 as configured': (x, task.configured) for x in usual}
        for ratio in RATIOS:
            title = f'both drawn, G2 {name_sizes(ratio)}'
            shown[title] = 'both drawn', ratio
        for j, (key, unit, label) in enumerate(AXES):
            costs, lines = by_setting(curve['rows'], key, unit), []
            for title, (arm, ratio) in shown.items():
                found = average(arms[arm])
                points = sorted(
                    (costs[x], found[x]) for x in found if x[0] == ratio
                )
                lines.append((title, *zip(*points, strict=True)))
            plot_lines(panels[2 * i + j], lines)
            panels[2 * i + j].set(xlabel=label)
        panels[2 * i].set(ylabel=f'{name}: {task.metric}')
    save_figure(figure, FOLDER / 'dial.png')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        '--train',
        nargs=3,
        metavar=('TASK', 'ARM', 'SEED'),
        help='train and test an arm, such as "both drawn"',
    )
    add(
        '--costs',
        nargs=2,
        metavar=('TASK', 'FILE.onnx'),
        help='first store the curve of a file with all settings of a task, '
        'whose costs are those of all trainings',
    )
    args = parser.parse_args()
    if args.train:
        task, arm, seed = args.train
        if task not in TASKS or arm not in list_arms(TASKS[task]):
            arms = {name: [*list_arms(TASKS[name])] for name in TASKS}
            parser.error(f'TASK and ARM are of {arms}')
        name = re.sub(r'[^\w.-]+', '-', f'{task}_{arm}-{seed}')
        # A training that continued would lack the time before.
        with TemporaryDirectory() as work_dir:
            record = train(task, arm, int(seed), Path(work_dir))
        write_json(FOLDER / f'{name}.json', record)
        return
    if args.costs:
        task, file = args.costs
        curve = OnnxModel(file).metadata.get('curve')
        if task not in TASKS or not curve:
            parser.error(f'TASK is of {[*TASKS]}, and the file has a curve')
        write_json(FOLDER / f'{task}.json', curve)
    results = {name: read_results(name) for name in TASKS}
    draw(results)
    regions = {name: show_task(found) for name, found in results.items()}
    regions['dial'] = summarize(results.values())
    fill_page(DOCS / 'grids.md', regions)


if __name__ == '__main__':
    with one_line_errors():
        main()
