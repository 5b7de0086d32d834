#!/usr/bin/env python
"""Makes docs/evidence.md from the trainings and tests in docs/evidence."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

from mmhatnet.analysis.dial import check_test, dials, robustness, save_figure
from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.training_profile import profile_training
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import describe_machine, precision_of
from mmhatnet.utils.atomic import replacing
from mmhatnet.utils.config import read_config

sys.path.append(str(Path(__file__).resolve().parents[1]))
from reproduction.record import record_training

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs' / 'evidence'
CONFIGS = ROOT / 'configs' / 'evidence'


@dataclass(frozen=True)
class Goal:
    """A value of the metric to reach in all trainings of a config."""

    config: str
    value: float
    cpu_minutes: float = inf


@dataclass(frozen=True)
class Group:
    """Trainings that are compared."""

    title: str
    metric: str  # mm's name
    shape: tuple[int, int]  # height and width of the images in pixels
    text: str
    base: str  # the config with which the others are compared
    goals: tuple[Goal, ...] = ()
    shared: str = ''  # records of another group that belong here, too


MICRO = 'hatnet-micro_1xb256-10e_cifar10'
LONG = 'hatnet-micro_1xb256-60e_cifar10'
SCRATCH = 'fpn_hatnet-micro-scratch_1xb8-1200_demo'
SEGMENTOR = 'fpn_hatnet-micro_1xb8-1200_demo'
DETECTOR = 'retinanet_hatnet-micro_fpn_1xb4-36e_trees'
GROUPS = {
    'cifar10': Group(
        'Classification from scratch: CIFAR-10',
        'accuracy/top1',
        (32, 32),
        'All 50,000 images of CIFAR-10; accuracy on the 10,000 test images. '
        'All models have the same pipeline, optimizer, schedule, precision '
        'and number of images, but for the one of 60 epochs, and each the '
        'learning rate that the search below found for it.',
        MICRO,
        (Goal(MICRO, 84, 60), Goal(LONG, 91, 240)),
    ),
    'search': Group(
        'The recipe of CIFAR-10: a search',
        'accuracy/top1',
        (32, 32),
        'Two epochs instead of ten, one seed: what the settings do that are '
        'given, everything else being as in the config.',
        MICRO,
    ),
    'trees': Group(
        'Transfer: a detector of tree crowns',
        'coco/bbox_mAP_50',
        (400, 400),
        'RetinaNet, trained on one aerial photograph and tested on three '
        'others, two of them of other sites; most of the test boxes are of '
        'the site of the training. Tiles overlap, so some trees count twice. '
        'At most 100 trees of a tile count. The backbone is that of the '
        'classifier of CIFAR-10.',
        DETECTOR,
        (Goal(DETECTOR, 0.4),),
    ),
    'fpn': Group(
        'Transfer: a segmentor of the demo data',
        'mIoU',
        (160, 192),
        'Semantic FPN on shapes that hide in photographs. *scratch* starts '
        'from random weights, the others from the classifier of CIFAR-10.',
        SEGMENTOR,
        (Goal(SEGMENTOR, 80),),
        'ablation_scratch*.json',
    ),
    'ablation': Group(
        'Ablations in miniature: a segmentor of the demo data',
        'mIoU',
        (160, 192),
        'Semantic FPN from random weights, with the designs of Table 5 and '
        'the ablations of Sec. 4.4. *scratch* is HAT-Net itself, design 4; '
        '*official* starts from the initial weights of the authors.',
        SCRATCH,
    ),
}
TEXT = """# Evidence

Trainings and tests on real data; the demo data are shapes on photographs. The
curves and seeds are in `docs/evidence/`, with what each training wrote about
itself when it started: versions, commit, machine, batch and learning rate. A
training is `python tools/train.py configs/evidence/CONFIG.py --cfg-options
randomness.seed=SEED`, with the config and the seed of the table. Where two
configs are compared, the trainings of a pair have the same seed.
`tools/pages/evidence.py` made this page, its conclusions included.
"""
# What decides about a training, but for what a machine changes.
COMPARED = (
    *('model', 'optim_wrapper', 'param_scheduler', 'train_cfg'),
    *('train_dataloader', 'test_dataloader', 'custom_hooks'),
)
IGNORED = 'optim_wrapper.type', 'optim_wrapper.dtype', 'train_cfg.val_interval'


def read_records(folder: Path, group: str) -> list[dict]:
    shared = GROUPS[group].shared
    paths = sorted(folder.glob(f'{group}_*.json'))
    paths += sorted(folder.glob(shared)) if shared else []
    records = [json.loads(path.read_text('utf-8')) for path in paths]
    return sorted(records, key=lambda record: record['seed'])


def flatten(cfg: object, prefix: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(cfg, Mapping):
        for key, value in cfg.items():
            yield from flatten(value, f'{prefix}.{key}' if prefix else key)
    else:
        yield prefix, cfg


def find_options(work_dir: Path, config: Path) -> dict[str, Any]:
    """Find the settings in which a training differs from its config."""
    trained = read_config(work_dir / config.name)
    here, there = (
        dict(flatten({key: cfg.get(key) for key in COMPARED}))
        for cfg in (trained, read_config(config))
    )
    return {
        key: here.get(key)
        for key in here | there
        if here.get(key) != there.get(key) and key not in IGNORED
    }


def use_times(records: list[dict], folder: Path, group: str) -> None:
    """Replace the times of logs by those of an idle machine, if known."""
    times = folder / f'times_{group}.json'
    if not times.exists():
        return
    found = json.loads(times.read_text('utf-8'))
    for record in records:
        per_image = found['seconds per image'].get(record['config'])
        if per_image:
            record['machine'] = found['machine']
            record['timed in'] = found['precision'][record['config']]
            for point in record['curve']:
                point['seconds'] = point['images'] * per_image


def measure_times(folder: Path, group: str, rounds: int = 3) -> None:
    """Time steps of all trainings of a group in turns, with their data."""
    configs = {record['config'] for record in read_records(folder, group)}
    found = {config: [] for config in sorted(configs)}
    precision = {}
    # One folder for all, since mmengine's visualizer keeps the first.
    with TemporaryDirectory() as work_dir:
        for config, seconds in list(found.items()) * rounds:
            cfg = read_config(CONFIGS / f'{config}.py')
            cfg.work_dir = work_dir
            hook = profile_training(cfg)
            steps = map(sum, zip(*hook.seconds.values(), strict=True))
            batch_size = cfg.train_dataloader.batch_size
            precision[config] = precision_of(cfg)  # on this machine
            seconds.append(median(steps) / batch_size)
    times = {
        'seconds per image': {k: median(v) for k, v in found.items()},
        'precision': precision,
        'machine': describe_machine(),
    }
    with replacing(folder / f'times_{group}.json') as part:
        Path(part).write_text(json.dumps(times, indent=1) + '\n', 'utf-8')


def results(records: list[dict], metric: str) -> dict[str, dict[int, float]]:
    """The last value of each training: config -> seed -> metric."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        value = record['curve'][-1][metric]
        values = found.setdefault(record['config'], {})
        if record['seed'] in values:
            raise ValueError(
                f'two trainings of {record["config"]} have the seed '
                f'{record["seed"]}: remove one'
            )
        values[record['seed']] = value
    return found


def span(values: list[float]) -> str:
    ends = f'{min(values):.4g}', f'{max(values):.4g}'
    return ' to '.join(dict.fromkeys(ends))


def pairs(found: dict, base: str, other: str) -> list[float]:
    """How far the base is ahead of another config, seed by seed."""
    mine = found.get(base, {})
    return [mine[k] - v for k, v in found[other].items() if k in mine]


def training_rows(records: list[dict], group: Group) -> Iterator[dict]:
    """One row for each config; its seeds share a cell."""
    found = results(records, group.metric)
    for config, values in found.items():
        here = [record for record in records if record['config'] == config]
        first = here[0]
        seconds = [record['curve'][-1]['seconds'] for record in here]
        minutes = f'{mean(seconds) / 60:.3g}'
        timed = first.get('timed in', first['precision'])
        if timed != first['precision']:
            minutes += f' in {timed}'
        ahead = pairs(found, group.base, config)
        several = len(values) > 1
        yield {
            'config': f'`{config}`',
            'parameters (M)': f'{first["parameters"] / 1e6:.2f}',
            'operations (M)': f'{first["operations"] / 1e6:.0f}',
            'kept (MiB)': f'{first["kept_memory"] / 2**20:.1f}',
            'precision': ', '.join(
                dict.fromkeys(record['precision'] for record in here)
            ),
            'lr': ', '.join(
                dict.fromkeys(f'{record["lr"]:.2g}' for record in here)
            ),
            'images seen': f'{first["curve"][-1]["images"]}',
            'minutes': minutes,
            'seeds': ', '.join(map(str, values)),
            group.metric: ', '.join(f'{v:.4g}' for v in values.values()),
            'mean': f'{mean(values.values()):.4g}',
            'deviation': f'{stdev(values.values()):.2g}' if several else '',
            'base ahead by': (
                f'{mean(ahead):.3g} ({span(ahead)})'
                if ahead and config != group.base
                else ''
            ),
        }


def search_rows(records: list[dict], group: Group) -> Iterator[dict]:
    """One row for each training, with the settings that it was given."""
    for record in sorted(records, key=lambda record: record['name']):
        settings = [
            f'{key.removeprefix("optim_wrapper.").removeprefix("model.")}='
            f'{value}'
            for key, value in record['options'].items()
            if not key.startswith(('param_scheduler', 'train_cfg'))
        ]
        yield {
            'config': f'`{record["config"]}`',
            'settings': ', '.join(f'`{text}`' for text in settings),
            'lr': f'{record["lr"]:.2g}',
            group.metric: f'{record["curve"][-1][group.metric]:.4g}',
        }


def cpu_minutes(record: dict) -> float:
    """Minutes times threads of all processes; infinite with a GPU."""
    threads = record['machine'].split()
    if threads[1] != 'CPU':
        return inf
    minutes = record['curve'][-1]['seconds'] / 60
    return minutes * int(threads[0]) * record.get('processes', 1)


def verdicts(records: list[dict], group: Group) -> Iterator[str]:
    """What the trainings show, in sentences."""
    found = results(records, group.metric)
    spreads = [max(v.values()) - min(v.values()) for v in found.values()]
    if any(len(values) > 1 for values in found.values()):
        yield (
            f'The seeds of one config differ by up to {max(spreads):.2g} in '
            f'{group.metric}.'
        )
    for goal in group.goals:
        if goal.config not in found:
            continue
        values = list(found[goal.config].values())
        limit = goal.cpu_minutes
        spent = max(
            cpu_minutes(record)
            for record in records
            if record['config'] == goal.config
        )
        met = min(values) >= goal.value and spent <= limit
        within = f' in {limit:g} CPU minutes' if limit < inf else ''
        yield (
            f'The goal of {goal.value:g}{within} for `{goal.config}` is '
            f'{"met" if met else "missed"}: {span(values)}'
            + (f' in {spent:.0f} CPU minutes.' if spent < inf else '.')
        )
    for config in found:
        ahead = pairs(found, group.base, config)
        if config == group.base or not ahead:
            continue
        size = [abs(value) for value in ahead]
        if len(ahead) < 3:
            text = 'fewer than three pairs of seeds, which decide nothing'
        elif min(ahead) > 0:
            text = f'behind in all {len(ahead)} pairs, by {span(size)}'
        elif max(ahead) < 0:
            text = f'ahead in all {len(ahead)} pairs, by {span(size)}'
        else:
            text = (
                f'from {max(ahead):.3g} behind to {-min(ahead):.3g} ahead in '
                f'{len(ahead)} pairs, which decides nothing'
            )
        yield f'`{config}` against `{group.base}`: {text}.'


def plot_trainings(records: list[dict], metric: str) -> Figure:
    figure = Figure(figsize=(12, 4), layout='constrained')
    panels = figure.subplots(1, 3, sharey=True)
    labels = (
        'images seen',
        '3 x operations x images seen (T)',
        'minutes of training',
    )
    # The seeds of a config share a colour and an entry of the legend.
    lines: dict[str, list[dict]] = {}
    for record in records:
        lines.setdefault(record['config'], []).append(record)
    for number, (config, seeds) in enumerate(lines.items()):
        for record in seeds:
            values = [point[metric] for point in record['curve']]
            images = [point['images'] for point in record['curve']]
            # The backward pass has two products for each of the forward pass.
            operations = [3e-12 * n * record['operations'] for n in images]
            minutes = [point['seconds'] / 60 for point in record['curve']]
            label = config if record is seeds[0] else None
            for panel, costs in zip(
                panels, (images, operations, minutes), strict=True
            ):
                panel.plot(costs, values, f'C{number}.-', label=label)
    for panel, label in zip(panels, labels, strict=True):
        panel.set(xlabel=label)
        panel.grid(alpha=0.3)
    panels[0].set(ylabel=metric)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc='outside lower center',
        ncols=3,
        fontsize='small',
    )
    return figure


def trainings(folder: Path, name: str) -> Iterator[str]:
    """The section of a group, if it has trainings."""
    group = GROUPS[name]
    records = read_records(folder, name)
    if not records:
        return
    yield f'## {group.title}\n\n{group.text}\n'
    if name == 'search':
        yield markdown_table(list(search_rows(records, group))) + '\n'
        return
    use_times(records, folder, name)
    image = save_figure(
        plot_trainings(records, group.metric), folder / f'{name}.png'
    )
    machines = ', '.join({record['machine']: None for record in records})
    height, width = group.shape
    yield (
        '*operations* are multiply-accumulates with the configured G1 and G2, '
        'and *kept* is what the backbone keeps for the backward pass in '
        f'float32, for one image of {height}x{width}. *minutes* are the '
        f'images times the time of a step, on {machines}. *base* is '
        f'`{group.base}`; it is ahead by the mean (and the least to the most) '
        'of the differences in pairs of seeds.\n\n'
        f'{markdown_table(list(training_rows(records, group)))}\n'
    )
    sentences = [f'- {text}' for text in verdicts(records, group)]
    if sentences:
        yield '\n'.join(sentences) + '\n'
    yield f'![{group.metric} over images, operations and time]{image}\n'


def make_page(folder: Path) -> None:
    parts = [TEXT]
    for group in GROUPS:
        parts += trainings(folder, group)
    for group in GROUPS:
        title = GROUPS[group].title.split(': ')[-1]
        parts += dials(folder, group, GROUPS[group].metric, title)
    cifar10 = GROUPS['cifar10']
    parts += robustness(folder, cifar10.metric, cifar10.shape[0])
    with replacing(folder.with_suffix('.md')) as part:
        Path(part).write_text('\n'.join(parts).rstrip() + '\n', 'utf-8')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Make docs/evidence.md from the trainings and tests that '
        'were added to docs/evidence.'
    )
    parser.add_argument(
        '--add',
        nargs=2,
        metavar=('GROUP', 'WORK_DIR'),
        help=f'add a training first; GROUP is one of {", ".join(GROUPS)}',
    )
    parser.add_argument(
        '--add-test',
        nargs=2,
        metavar=('NAME', 'CSV'),
        help='add a test first: a CSV of sweep_grids.py as sweep_GROUP_NAME, '
        'or one of robustness.py as robustness_NAME',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=FOLDER,
        help='folder of the trainings; the page is beside it (default: '
        'docs/evidence)',
    )
    parser.add_argument(
        '--time',
        choices=GROUPS,
        metavar='GROUP',
        help='time steps of all trainings of a group in turns; the machine '
        'should be idle',
    )
    args = parser.parse_args()
    if args.add:
        group, work_dir = args.add
        if group not in GROUPS:
            parser.error(
                f"no group '{group}': choose from {', '.join(GROUPS)}"
            )
        record = record_training(work_dir, GROUPS[group].shape)
        config = CONFIGS / f'{record["config"]}.py'
        if not config.exists():
            parser.error(f'{record["config"]} is not in {CONFIGS}')
        record['options'] = find_options(Path(work_dir), config)
        if record['options'] and group != 'search':
            parser.error(
                f'{work_dir} was trained with other settings than '
                f'{config.name}: {", ".join(record["options"])}'
            )
        if GROUPS[group].metric not in record['curve'][-1]:
            parser.error(f'{work_dir} has no last {GROUPS[group].metric}')
        args.out.mkdir(parents=True, exist_ok=True)
        target = args.out / f'{group}_{record["name"]}.json'
        with replacing(target) as part:
            Path(part).write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    if args.add_test:
        name, path = args.add_test
        metrics = {key: group.metric for key, group in GROUPS.items()}
        check_test(name, path, metrics)
        args.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, args.out / f'{name}.csv')
    if args.time:
        measure_times(args.out, args.time)
    make_page(args.out)


if __name__ == '__main__':
    with one_line_errors('reproduction'):
        main()
