#!/usr/bin/env python
"""Fills docs/evidence.md from the trainings and tests in docs/evidence."""

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil, inf
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from common import (
    DOCS,
    ROOT,
    fill_page,
    make_figure,
    read_json,
    save_figure,
    span,
    write_json,
)
from mmengine.config import Config
from mmengine.hooks import Hook
from reproduction.logs import read_metrics
from reproduction.record import record_training

from mmhatnet.analysis.report import markdown_table
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import describe_machine
from mmhatnet.engine.runner import train_steps
from mmhatnet.utils.config import read_config

CONFIGS = ROOT / 'configs'
FOLDER = DOCS / 'evidence'


class Group(NamedTuple):
    """Trainings that are compared."""

    metric: str  # mm's name
    shape: tuple[int, int]  # height and width of the images in pixels
    base: str  # the config with which the others are compared
    # Config -> a value for all of its trainings, within these CPU minutes.
    goals: Mapping[str, tuple[float, float]] = {}
    spread: float = inf  # how far seeds of a config may differ
    others: Sequence[tuple[str, str]] = ()  # pairs that are also compared


MICRO = 'hatnet-micro_1xb256-10e_cifar10'
BEST_RATE = 'hatnet-micro-lr8e-3_1xb256-10e_cifar10'
LONG = 'hatnet-micro_1xb256-60e_cifar10'
QUICKSTART = 'fpn_hatnet-tiny_2xb4-400_demo'
SCRATCH = 'fpn_hatnet-micro-scratch_1xb8-1200_demo-1200'
SEGMENTOR = 'fpn_hatnet-micro_1xb8-1200_demo'
DETECTOR = 'retinanet_hatnet-micro_fpn_1xb4-36e_trees'
TREES = Group('coco/bbox_mAP_50', (400, 400), DETECTOR, {DETECTOR: (0.4, inf)})
SCRATCH_DEMO = 'fpn_hatnet-micro-scratch_1xb8-1200_demo'
OFFICIAL_DEMO = 'fpn_hatnet-micro-official_1xb8-1200_demo'
# Names of regions of the page.
GROUPS = {
    'cifar10': Group(
        *('accuracy/top1', (32, 32), BEST_RATE),
        {BEST_RATE: (84, 60), MICRO: (84, 60)},
    ),
    'cifar10-60e': Group('accuracy/top1', (32, 32), LONG, {LONG: (91, 240)}),
    'search': Group('accuracy/top1', (32, 32), MICRO),
    'trees': TREES,
    'trees-60e': TREES,  # from the classifier of 60 epochs
    'fpn': Group(
        *('mIoU', (160, 192), SEGMENTOR, {SEGMENTOR: (80, inf)}, 3),
        [(OFFICIAL_DEMO, SCRATCH_DEMO)],
    ),
    'quickstart': Group('mIoU', (160, 192), QUICKSTART, spread=3),
    'ablation': Group('mIoU', (160, 192), SCRATCH, spread=3),
}
# Settings that define a training, without those that depend on the machine.
COMPARED = (
    *('model', 'optim_wrapper', 'param_scheduler', 'train_cfg'),
    *('train_dataloader', 'test_dataloader', 'custom_hooks'),
)
IGNORED = 'optim_wrapper.type', 'optim_wrapper.dtype', 'train_cfg.val_interval'
# Changed in all trainings of the search, or a column of its own there.
NOT_LISTED = 'param_scheduler', 'train_cfg', 'optim_wrapper.optimizer.lr'


def read_records(folder: Path, name: str) -> list[dict]:
    records = map(read_json, folder.glob(f'{name}_*.json'))
    return sorted(records, key=lambda record: record['name'])


def flatten(cfg: object, prefix: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(cfg, Mapping):
        for key, value in cfg.items():
            yield from flatten(value, f'{prefix}.{key}' if prefix else key)
    else:
        yield prefix, cfg


def find_config(name: str) -> Path:
    for path in CONFIGS.glob(f'*/{name}.py'):
        return path
    raise FileNotFoundError(f'no config {name} in {CONFIGS}')


def find_options(work_dir: Path, config: Path) -> dict[str, Any]:
    """Find the settings in which a training differs from its config."""
    here, there = (
        dict(flatten({key: cfg.get(key) for key in COMPARED}))
        for cfg in map(read_config, (work_dir / config.name, config))
    )
    return {
        key: here.get(key)
        for key in here | there
        if here.get(key) != there.get(key)
        and key not in IGNORED
        # train.py replaces it on CPUs.
        and (there.get(key), here.get(key)) != ('SyncBN', 'BN')
    }


class StepClock(Hook):
    """Takes the CPU time of steps, without processes that load data."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def before_train_iter(self, *_, **__) -> None:
        self.start = time.process_time()

    def after_train_iter(self, *_, **__) -> None:
        self.seconds.append(time.process_time() - self.start)


def time_steps(cfg: Config) -> float:
    """Measure the CPU seconds of a training step; the config is changed.

    The training may have shared the machine, which slows its own log down.
    """
    clock = StepClock()
    with TemporaryDirectory() as cfg.work_dir:
        train_steps(cfg, 12, clock)
    return median(clock.seconds)


def add_training(folder: Path, name: str, work_dir: str) -> None:
    """Store the record of a training in a group.

    Its folders ``tested ...``, such as ``tested with --tta``, are the work
    directories of other tests.

    Raises:
        FileNotFoundError: If its config is not in a folder of ``configs``.
        ValueError: If the page could not show it, or not beside the others,
            or this is another kind of machine.
    """
    if name not in GROUPS:
        raise ValueError(f"no group '{name}': choose from {', '.join(GROUPS)}")
    metric = GROUPS[name].metric
    record = record_training(work_dir, GROUPS[name].shape)
    config = find_config(record['config'])
    record['options'] = find_options(Path(work_dir), config)
    if record['options'] and name != 'search':
        raise ValueError(
            f'{work_dir} was trained with other settings than {config.name}: '
            f'{", ".join(record["options"])}'
        )
    if metric not in record['curve'][-1]:
        raise ValueError(f'{work_dir} has no last {metric}')
    # A detector without any boxes has none.
    record['curve'] = [x for x in record['curve'] if metric in x]
    tests = sorted(Path(work_dir).glob('tested */'))
    if tests:
        record['tests'] = {
            folder.name.removeprefix('tested '): read_metrics(folder)
            for folder in tests
        }
    threads, kind, *_ = record['machine'].split()
    if kind == 'CPU':
        torch.set_num_threads(int(threads))
        here = describe_machine()
        if here.partition(',')[0] != record['machine'].partition(',')[0]:
            raise ValueError(
                f'its steps are timed where it ran, on {record["machine"]}; '
                f'this is {here}'
            )
        step = time_steps(read_config(Path(work_dir) / config.name))
        for point in record['curve']:
            steps = point['images'] / record['batch_size']
            point['seconds'] = round(steps * step, 1)
    write_json(folder / f'{name}_{record["name"]}.json', record)


def results(records: list[dict], metric: str) -> dict[str, dict[int, float]]:
    """The last value of each training: config -> seed -> metric."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        values = found.setdefault(record['config'], {})
        if record['seed'] in values:
            raise ValueError(
                f'two trainings of {record["config"]} have the seed '
                f'{record["seed"]}: remove one'
            )
        values[record['seed']] = record['curve'][-1][metric]
    return found


def pairs(found: dict, base: str, other: str) -> list[float]:
    """How far the base is ahead of another config, seed by seed."""
    mine = found.get(base, {}) if other != base else {}
    return [mine[k] - v for k, v in found[other].items() if k in mine]


def join(values: Iterable[str]) -> str:
    """List values, each of them once."""
    return ', '.join(dict.fromkeys(values))


def training_rows(records: list[dict], group: Group) -> Iterator[dict]:
    """One row for each config; its seeds share a cell."""
    found = results(records, group.metric)
    for config, values in found.items():
        here = [record for record in records if record['config'] == config]
        seconds = mean(record['curve'][-1]['seconds'] for record in here)
        ahead = pairs(found, group.base, config)
        starts = [start for x in here for start in x.get('training', [x])]
        yield {
            'config': f'`{config}`',
            'parameters (M)': f'{here[0]["parameters"] / 1e6:.2f}',
            'operations (M)': f'{here[0]["operations"] / 1e6:.0f}',
            'kept (MiB)': f'{here[0]["kept_memory"] / 2**20:.1f}',
            'minutes': f'{seconds / 60:.3g}',
            # Without the version of torch.
            'machine': join(x['machine'].split(',')[0] for x in starts),
            'precision': join(x['precision'] for x in here),
            'lr': join(f'{x["lr"]:g}' for x in here),
            'seeds': ', '.join(map(str, values)),
            group.metric: ', '.join(f'{v:.4g}' for v in values.values()),
            'mean': show_mean([*values.values()]),
            'base ahead by': f'{mean(ahead):.3g} ({span(ahead)})'
            if ahead
            else '',
        }


def show_mean(values: list[float]) -> str:
    """Write the mean, and the standard deviation of several values."""
    deviation = f' ± {stdev(values):.2g}' if len(values) > 1 else ''
    return f'{mean(values):.4g}{deviation}'


def within(minutes: float) -> str:
    return f' in at most {ceil(minutes)} CPU minutes' if minutes < inf else ''


def judge_pairs(ahead: list[float]) -> str:
    """Say whether the differences from the base are conclusive."""
    size = span([abs(value) for value in ahead])
    if len(ahead) < 3:
        return 'fewer than three pairs of seeds, which is inconclusive'
    if min(ahead) > 0:
        return f'behind in all {len(ahead)} pairs, by {size}'
    if max(ahead) < 0:
        return f'ahead in all {len(ahead)} pairs, by {size}'
    return (
        f'from {max(ahead):.3g} behind to {-min(ahead):.3g} ahead in '
        f'{len(ahead)} pairs, which is inconclusive'
    )


def find_reverse(
    records: list[dict], group: Group, config: str, ahead: list[float]
) -> str:
    """Say when the order was the reverse of the end, in all pairs."""
    reverse = 0
    for images in {x['images'] for each in records for x in each['curve']}:
        then = [
            record | {'curve': [point]}
            for record in records
            for point in record['curve']
            if point['images'] == images
        ]
        found = results(then, group.metric)
        leads = pairs(found, group.base, config) if config in found else []
        opposite = all(lead * mean(ahead) < 0 for lead in leads)
        if opposite and len(leads) == len(ahead):
            reverse = max(reverse, images)
    return f' (the reverse at {reverse:,} images)' if reverse else ''


def cpu_minutes(record: dict) -> float:
    """CPU time of all threads and processes; infinite with a GPU."""
    if record['machine'].split()[1] != 'CPU':
        return inf
    return record['curve'][-1]['seconds'] / 60 * record['processes']


def judge(records: list[dict], group: Group) -> Iterator[str]:
    """What the trainings show, in sentences."""
    found = results(records, group.metric)
    for config, (goal, limit) in group.goals.items():
        here = [x for x in records if x['config'] == config]
        verdict = 'was not tried'
        if here:
            values = found[config].values()
            spent = max(map(cpu_minutes, here))
            met = 'met' if min(values) >= goal and spent <= limit else 'missed'
            seeds = f'{len(values)} seed{"s" * (len(values) > 1)}'
            verdict = f'is {met} with {seeds}: {span(values)}{within(spent)}'
        yield (
            f'The goal of {goal:g} ({group.metric}){within(limit)} for '
            f'`{config}` {verdict}.'
        )
        for record in here:
            for how, metrics in record.get('tests', {}).items():
                value = metrics[group.metric]
                meets = 'met' if value >= goal else 'missed'
                yield (
                    f'Tested {how}, seed {record["seed"]} has '
                    f'{value:.4g}: the goal of {goal:g} is {meets}.'
                )
    compared = [(config, group.base) for config in found]
    for config, base in (*compared, *group.others):
        ahead = pairs(found, base, config) if config in found else []
        if ahead:
            verdict = judge_pairs(ahead)
            if verdict.startswith(('ahead', 'behind')):
                here = group._replace(base=base)
                verdict += find_reverse(records, here, config, ahead)
            yield f'`{config}` against `{base}`: {verdict}.'
    for config, seeds in found.items():
        spread = max(seeds.values()) - min(seeds.values())
        if spread > group.spread:
            yield (
                f'Seeds of `{config}` differ by {spread:.3g}; above '
                f'{group.spread:g}, a comparison is not reliable.'
            )


def plot_trainings(records: list[dict], metric: str, path: Path) -> None:
    """Plot the mean, least and greatest value of the seeds of each config."""
    figure, panels = make_figure(1, 2, size=(12, 5), sharey=True)
    for config in dict.fromkeys(record['config'] for record in records):
        here = [record for record in records if record['config'] == config]
        curves = [{x['images']: x for x in each['curve']} for each in here]
        images = sorted(set.intersection(*map(set, curves)))
        points = [[curve[number] for curve in curves] for number in images]
        values = [[seed[metric] for seed in point] for point in points]
        # The backward pass has two products for each of the forward pass.
        of_image = 3e-12 * here[0]['operations']
        operations = [of_image * number for number in images]
        minutes = [mean(x['seconds'] for x in point) / 60 for point in points]
        for panel, x in zip(panels, (operations, minutes), strict=True):
            panel.plot(x, [*map(mean, values)], '.-', label=config)
            ends = [*map(min, values)], [*map(max, values)]
            panel.fill_between(x, *ends, alpha=0.15)
    panels[0].set(xlabel='3 x operations x images seen (T)', ylabel=metric)
    panels[1].set(xlabel='minutes of training, on its machine')
    save_figure(figure, path)


def training_section(records: list[dict], group: Group, picture: Path) -> str:
    """Compare trainings in a table, sentences and a figure."""
    plot_trainings(records, group.metric, picture)
    height, width = group.shape
    parts = [
        f'Images of {height}x{width}. *base* is `{group.base}`.',
        markdown_table(list(training_rows(records, group))),
        '\n'.join(f'- {text}' for text in judge(records, group)),
        f'![{group.metric} over operations and time]'
        f'({picture.parent.name}/{picture.name})',
    ]
    return '\n\n'.join(filter(None, parts))


def search_section(records: list[dict], metric: str) -> str:
    """A row for each training, and the best learning rate of each config."""
    rows, rates = [], {}
    for record in records:
        config, value = f'`{record["config"]}`', record['curve'][-1][metric]
        changed = ', '.join(
            f'`{key.removeprefix("optim_wrapper.").removeprefix("model.")}='
            f'{value}`'
            for key, value in record['options'].items()
            if not key.startswith(NOT_LISTED)
        )
        if not changed:
            rates.setdefault(config, []).append((value, record['lr']))
        row = dict(config=config, changed=changed, lr=f'{record["lr"]:.2g}')
        rows.append(row | {metric: f'{value:.4g}'})
    rows.sort(key=lambda row: list(row.values())[:3])
    best = []
    for config, found in sorted(rates.items()):
        rate, largest = max(found)[1], max(rate for _, rate in found)
        if len(found) > 1:
            end = ', the largest of them' if rate == largest else ''
            best.append(
                f'- The best of {len(found)} learning rates of {config} is '
                f'{rate:.2g}{end}.'
            )
    return '\n'.join([markdown_table(rows), '', *best]).rstrip()


def make_section(folder: Path, name: str) -> str:
    """Fill the region of a group; it is empty without records."""
    group, records = GROUPS[name], read_records(folder, name)
    if not records:
        return ''
    if name == 'search':
        return search_section(records, group.metric)
    return training_section(records, group, folder / f'{name}.png')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--add',
        nargs=2,
        metavar=('GROUP', 'WORK_DIR'),
        help=f'add a training first; GROUP is one of {", ".join(GROUPS)}',
    )
    added = parser.parse_args().add
    if added:
        add_training(FOLDER, *added)
    sections = {name: make_section(FOLDER, name) for name in GROUPS}
    fill_page(DOCS / 'evidence.md', sections)


if __name__ == '__main__':
    with one_line_errors('reproduction'):
        main()
