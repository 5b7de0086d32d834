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
    write_json,
)

from mmhatnet.analysis.curve import scale_tests
from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.sweep import build_tester, evaluate_grids, name_sizes
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import read_provenance
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
    ends = RATIOS[0], RATIOS[-1]
    sizes = task.factors[0], task.factors[-1]
    for setting in [
        *((ratio, 1.0) for ratio in ends),
        *((task.configured, factor) for factor in sizes if factor != 1),
    ]:
        arms[f'only {describe(setting)}'] = ([setting[0]], [setting[1]])
    return arms


def describe(setting: Setting) -> str:
    return f'G2 {name_sizes(setting[0])}, size x {setting[1]:g}'


def file_name(task: str, arm: str, seed: int) -> str:
    return re.sub(r'[^\w.-]+', '-', f'{task}_{arm}-{seed}')


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
    kept = 'commit', 'changes', 'machine', 'precision', 'versions'
    start = read_provenance(work_dir)[-1]
    record = dict(arm=arm, seed=seed, seconds=round(seconds, 1), rows=rows)
    return record | {key: start[key] for key in kept}


def read_arms(name: str) -> dict[str, list[dict]]:
    """Read the trainings of a task, by arm; ``found`` has their metrics."""
    arms: dict[str, list[dict]] = {arm: [] for arm in list_arms(TASKS[name])}
    for path in sorted(FOLDER.glob(f'{name}_*.json')):
        record = read_json(path)
        record['found'] = by_setting(record['rows'], 'metric')
        arms[record['arm']].append(record)
    seeds = len(arms['fixed'])
    return {arm: found for arm, found in arms.items() if len(found) == seeds}


def by_setting(rows: Iterable[Mapping], key: str) -> dict[Setting, float]:
    return {(tuple(row['G2']), row['factor']): row[key] for row in rows}


def average(records: Sequence[dict]) -> dict[Setting, float]:
    """The mean of the metric over seeds, for each setting."""
    found = [record['found'] for record in records]
    return {setting: mean(x[setting] for x in found) for setting in found[0]}


class Comparison(NamedTuple):
    """The best settings of weights in the time of a size of images."""

    factor: float
    chosen: tuple[Setting, ...]  # of 'both drawn', for each seed
    ahead: Mapping[str, list[float]]  # of other weights, in points


def compare(
    arms: Mapping[str, list[dict]], times: Mapping[Setting, float], task: Task
) -> Iterator[Comparison]:
    """Compare all G2 and sizes with sizes alone, at the configured G2."""
    for factor in task.factors:
        limit = times[task.configured, factor]
        within = [x for x in times if times[x] <= limit]
        sizes = [x for x in within if x[0] == task.configured]
        mine = choose_best(arms['both drawn'], within)
        ahead = {}
        for arm in ('fixed', 'size drawn'):
            pairs = zip(mine, choose_best(arms[arm], sizes), strict=True)
            ahead[arm] = [(x[1] - y[1]) / task.unit for x, y in pairs]
        yield Comparison(factor, tuple(x[0] for x in mine), ahead)


def choose_best(
    records: Sequence[dict], settings: Sequence[Setting]
) -> list[tuple[Setting, float]]:
    """Choose a setting for each seed by the others, and get its metric.

    So none is the best by chance where it is compared.
    """
    found = []
    for record in records:
        rest = average([other for other in records if other != record])
        best = max(settings, key=rest.__getitem__)
        found.append((best, record['found'][best]))
    return found


def show_pairs(ahead: Sequence[float]) -> str:
    """The mean of differences in pairs of seeds, and their range."""
    return f'{mean(ahead):+.2f} ({min(ahead):+.2f} to {max(ahead):+.2f})'


def arm_rows(arms: Mapping[str, list[dict]], unit: float) -> Iterator[dict]:
    """One row for each arm that is tested with all settings."""
    for arm in TESTED:
        means, others = (
            [mean(record['found'].values()) / unit for record in arms[name]]
            for name in (arm, 'fixed')
        )
        ahead = [x - y for x, y in zip(means, others, strict=True)]
        minutes = mean(record['seconds'] for record in arms[arm]) / 60
        yield {
            'trained with': arm,
            'mean': f'{mean(means):.2f}',
            'worst setting': f'{min(average(arms[arm]).values()) / unit:.2f}',
            'mean ahead of fixed by': show_pairs(ahead) if any(ahead) else '',
            'CPU minutes': f'{minutes:.1f}',
        }


def conclude(
    arms: Mapping[str, list[dict]], times: Mapping[Setting, float], task: Task
) -> Iterator[str]:
    """Say what a point of the metric buys, and how far the ceiling is."""
    mine = average(arms['both drawn'])
    top = max(mine, key=mine.__getitem__)
    near = [x for x in mine if mine[x] >= mine[top] - task.unit]
    low = min(near, key=times.__getitem__)
    ratio = times[top] / times[low]
    yield (
        f'The goal of half the time for a point is '
        f'{"met" if ratio >= 2 else "missed"}: from the best setting '
        f'({describe(top)}, {times[top]:.0f} ms) to the fastest one within a '
        f'point ({describe(low)}, {times[low]:.0f} ms), the time falls '
        f'{ratio:.1f} times.'
    )
    small, large = ((RATIOS[i], task.factors[-1]) for i in (0, -1))
    faster = times[small] / times[large]
    gains = [
        (record['found'][large] - record['found'][small]) / task.unit
        for record in arms['both drawn']
    ]
    yield (
        f'At size x {large[1]:g}, a G2 of {name_sizes(large[0])} is '
        f'{faster:.1f} times as fast as {name_sizes(small[0])}, and changes '
        f'the metric by {show_pairs(gains)} points.'
    )
    pairs = list(zip(arms['sandwich'], arms['both drawn'], strict=True))
    gains = [
        (mean(x['found'].values()) - mean(y['found'].values())) / task.unit
        for x, y in pairs
    ]
    longer = mean(x['seconds'] / y['seconds'] for x, y in pairs)
    yield (
        f'The mean of *sandwich* differs from that of *both drawn* by '
        f'{show_pairs(gains)} points, in {longer:.1f} times the time.'
    )
    ahead = [
        (special['found'][x] - general['found'][x]) / task.unit
        for arm in arms.keys() - set(TESTED)
        for special, general in zip(arms[arm], arms['both drawn'], strict=True)
        for x in special['found']
    ]
    if ahead:
        yield (
            'Weights that learned one setting alone are ahead there by '
            f'{show_pairs(ahead)} points.'
        )


def show_task(name: str) -> str:
    """Make the part of the page of a task."""
    task, arms = TASKS[name], read_arms(name)
    costs = read_json(FOLDER / f'{name}.json')
    times = by_setting(costs['rows'], 'ms')
    rows = [
        {
            'time of': f'size x {each.factor:g}',
            'ms': f'{times[task.configured, each.factor]:.0f}',
            'best in this time': '; '.join(
                map(describe, dict.fromkeys(each.chosen))
            ),
            **{
                f'ahead of {arm} by': show_pairs(ahead)
                for arm, ahead in each.ahead.items()
            },
        }
        for each in compare(arms, times, task)
    ]
    records = [record for found in arms.values() for record in found]
    machines = ', '.join(dict.fromkeys(x['machine'] for x in records))
    seeds = ', '.join(str(record['seed']) for record in arms['fixed'])
    parts = (
        f'`{task.config}`:\n{task.metric}, seeds {seeds}. Trained on '
        f'{machines};\ntimes of the graph on {costs["machine"]}.',
        markdown_table(list(arm_rows(arms, task.unit))),
        markdown_table(rows),
        '\n'.join(
            fill(f'- {line}', 80, subsequent_indent='  ')
            for line in conclude(arms, times, task)
        ),
    )
    return '\n\n'.join(parts)


def summarize() -> str:
    """Say what the sizes give, and what G2 adds to them."""
    gains: dict[str, list[float]] = {'fixed': [], 'size drawn': []}
    for name, task in TASKS.items():
        costs = read_json(FOLDER / f'{name}.json')['rows']
        found = compare(read_arms(name), by_setting(costs, 'ms'), task)
        for each in found:
            for arm, ahead in each.ahead.items():
                gains[arm] += ahead
    text = (
        'In the time of each size of images, weights that learned several G2 '
        f'and sizes are ahead of usual ones by {show_pairs(gains["fixed"])} '
        'points, and ahead of weights that learned several sizes alone by '
        f'{show_pairs(gains["size drawn"])}. '
    )
    text += (
        'So G2 adds to what the size of images gives.'
        if min(gains['size drawn']) > 0
        else '**So G2 adds nothing certain to the size of images: let the '
        'size be the dial**, and take a large G2 for large images, which '
        'costs less time (below).'
    )
    return fill(text, 80)


def draw() -> None:
    """Draw the metric of a task against time and against peak memory."""
    figure, panels = make_figure(
        len(TASKS), 2, size=(9, 4 * len(TASKS)), sharey='row'
    )
    for i, (name, task) in enumerate(TASKS.items()):
        arms = read_arms(name)
        rows = read_json(FOLDER / f'{name}.json')['rows']
        for j, (key, unit, label) in enumerate(AXES):
            costs = by_setting(rows, key)
            lines = []
            for arm in ('fixed', 'size drawn', 'both drawn'):
                found = average(arms[arm])
                for ratio in RATIOS:
                    if arm != 'both drawn' and ratio != task.configured:
                        continue
                    points = sorted(
                        (costs[x] / unit, found[x] / task.unit)
                        for x in found
                        if x[0] == ratio
                    )
                    drawn = arm == 'both drawn'
                    used = name_sizes(ratio) if drawn else 'as configured'
                    title = f'{arm}, G2 {used}'
                    lines.append((title, *zip(*points, strict=True)))
            plot_lines(panels[2 * i + j], lines)
            panels[2 * i + j].set(xlabel=label)
        panels[2 * i].set(ylabel=f'{name}: {task.metric}')
    save_figure(figure, FOLDER / 'dial.png')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/grids.md from docs/sweeps/dial.'
    )
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
        name = file_name(task, arm, int(seed))
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
    draw()
    regions = {name: show_task(name) for name in TASKS}
    fill_page(DOCS / 'grids.md', dict(dial=summarize()) | regions)


if __name__ == '__main__':
    with one_line_errors():
        main()
