#!/usr/bin/env python
"""Makes docs/evidence.md from the trainings and tests in docs/evidence."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

from matplotlib.figure import Figure

from mmhatnet.analysis.report import markdown_table, read_csv
from mmhatnet.analysis.robustness import CLEAN
from mmhatnet.analysis.sweep import name_of, pareto_front
from mmhatnet.analysis.timing import describe_machine
from mmhatnet.analysis.training_profile import profile_training
from mmhatnet.atomic import replacing
from mmhatnet.cli import one_line_errors
from mmhatnet.config import read_config
from mmhatnet.reproduction.record import precision_of, record_training

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs' / 'evidence'
CONFIGS = ROOT / 'configs' / 'evidence'
# Group -> title, metric, size of the images, what was trained.
GROUPS = {
    'cifar10': (
        'Classification from scratch: CIFAR-10',
        'accuracy/top1',
        (64, 64),
        'All 50,000 images of CIFAR-10, enlarged to 64x64; accuracy on the '
        '10,000 test images. All models have the same pipeline, optimizer and '
        'number of images. *elastic* saw several G1, G2 and sizes of images. '
        'Neither goal is met, 92 % and HAT-Net ahead of the others: ten '
        'epochs are what a CPU trains in an hour or two, and PVTv2-B0 and the '
        'ResNet learn more in them. The learning rate was chosen for HAT-Net, '
        'and for no other model. The weights of PVTv2-B0 were trained in '
        'channels_last memory, which changes rounding alone.',
    ),
    'trees': (
        'Transfer: a detector of tree crowns',
        'coco/bbox_mAP_50',
        (400, 400),
        'RetinaNet, trained on one aerial photograph and tested on three '
        'others, two of them of other sites; most of the test boxes are of '
        'the site of the training. Tiles overlap, so some trees count twice. '
        'At most 100 trees of a tile count. *scratch* starts from random '
        'weights, the other from the classifier of CIFAR-10.',
    ),
    'fpn': (
        'Transfer: a segmentor of the demo data',
        'mIoU',
        (160, 192),
        'Semantic FPN on shapes that hide in photographs. *scratch* starts '
        'from random weights, the others from the classifier of CIFAR-10.',
    ),
    'mask-rcnn': (
        'Transfer: an instance segmentor of the demo data',
        'coco/segm_mAP',
        (160, 192),
        'Mask R-CNN on shapes that hide in photographs. *scratch* starts from '
        'random weights, the other from the classifier of CIFAR-10.',
    ),
    'ablation': (
        'Ablations in miniature: a segmentor of the demo data',
        'mIoU',
        (160, 192),
        'Semantic FPN from random weights, with the designs of Table 5 and '
        'the ablations of Sec. 4.4. *scratch* is HAT-Net itself, design 4.',
    ),
}
TEXT = """# Evidence

Trainings and tests on real data; the demo data are shapes on photographs. The
curves and seeds are in `docs/evidence/`, with the versions, the commit and the
machine with which a training was recorded; a commit with *-dirty* had changed
files. A training is `python tools/train.py configs/evidence/CONFIG.py
--cfg-options randomness.seed=SEED`, with the config and the seed of the table.
For bfloat16 where the config has none, add `optim_wrapper.type=AmpOptimWrapper
optim_wrapper.dtype=bfloat16`. For float32 where the config has bfloat16, add
`optim_wrapper.dtype=float32` on a CPU; one without instructions for bfloat16
needs no option. `tools/pages/evidence.py` made this page.
"""


def read_records(folder: Path, group: str) -> list[dict]:
    paths = sorted(folder.glob(f'{group}_*.json'))
    records = [json.loads(path.read_text('utf-8')) for path in paths]
    return sorted(records, key=lambda record: record['seed'])


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


def training_rows(records: list[dict], metric: str) -> Iterator[dict]:
    """One row for each config; its seeds share a cell."""
    for config in dict.fromkeys(record['config'] for record in records):
        here = [record for record in records if record['config'] == config]
        last = [record['curve'][-1] for record in here]
        first = here[0]
        minutes = f'{mean(point["seconds"] for point in last) / 60:.3g}'
        timed = first.get('timed in', first['precision'])
        if timed != first['precision']:
            minutes += f' in {timed}'
        yield {
            'config': f'`{config}`',
            'parameters (M)': f'{first["parameters"] / 1e6:.2f}',
            'operations (M)': f'{first["operations"] / 1e6:.0f}',
            'kept (MiB)': f'{first["kept_memory"] / 2**20:.1f}',
            'precision': ', '.join(
                dict.fromkeys(record['precision'] for record in here)
            ),
            'images seen': f'{last[0]["images"]}',
            'minutes': minutes,
            'seeds': ', '.join(str(record['seed']) for record in here),
            metric: ', '.join(f'{point[metric]:.4g}' for point in last),
        }


def spread(records: list[dict], metric: str) -> str:
    """How far trainings of one config differ, where there are several."""
    found = {}
    for record in records:
        found.setdefault(record['config'], []).append(
            record['curve'][-1][metric]
        )
    spreads = [max(v) - min(v) for v in found.values() if len(v) > 1]
    if len(found) < 2:
        return ''
    if not spreads:
        return '\nOne training of each: small differences show nothing.\n'
    return (
        f'\nTrainings of one config differ by up to {max(spreads):.2g} in '
        f'{metric}; smaller differences between configs show nothing.\n'
    )


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


def save(figure: Figure, path: Path) -> str:
    with replacing(path) as part:
        figure.savefig(part, format='png', dpi=100)
    return f'({path.parent.name}/{path.name})'


def trainings(folder: Path, group: str) -> Iterator[str]:
    """The section of a group, if it has trainings."""
    title, metric, shape, text = GROUPS[group]
    records = read_records(folder, group)
    if not records:
        return
    use_times(records, folder, group)
    image = save(plot_trainings(records, metric), folder / f'{group}.png')
    machines = ', '.join({record['machine']: None for record in records})
    yield (
        f'## {title}\n\n{text} *operations* are multiply-accumulates with the '
        'configured G1 and G2, and *kept* is what the backbone keeps for the '
        f'backward pass in float32, for one image of {shape[0]}x{shape[1]}. '
        f'*minutes* are the images times the time of a step, on {machines}.'
        '\n\n'
        f'{markdown_table(list(training_rows(records, metric)))}\n'
        f'{spread(records, metric)}\n'
        f'![{metric} over images, operations and time]{image}\n'
    )


def grids_options(rows: list[dict]) -> str:
    """Write the options with which a tool measured all these settings."""
    options = []
    for option, key in ('--g1', 'G1'), ('--g2', 'G2'):
        values = dict.fromkeys(','.join(map(str, row[key])) for row in rows)
        options.append(' '.join([option, *values]))
    return ' '.join(options)


def dials(folder: Path, group: str) -> Iterator[str]:
    """Sweeps over G1 and G2 of one model with several trainings."""
    sweeps = {
        path.stem.removeprefix(f'sweep_{group}_'): read_csv(path)
        for path in sorted(folder.glob(f'sweep_{group}_*.csv'))
    }
    if not sweeps:
        return
    metric = GROUPS[group][1]
    figure = Figure(figsize=(10, 4), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True)
    table, ratios = {}, {}
    for colour, (name, rows) in enumerate(sweeps.items()):
        for panel, cost, unit in zip(
            panels, ('operations', 'latency_ratio'), (1e6, 1), strict=True
        ):
            points = [(row[cost] / unit, row[metric]) for row in rows]
            panel.plot(*zip(*points, strict=True), f'C{colour}o', alpha=0.4)
            front = [points[i] for i in pareto_front(points)]
            panel.plot(*zip(*front, strict=True), f'C{colour}.-', label=name)
        for row in rows:
            setting = name_of(row)
            ratios.setdefault(setting, []).append(row['latency_ratio'])
            cells = table.setdefault(setting, {'G1; G2': setting})
            cells['operations (M)'] = f'{row["operations"] / 1e6:.1f}'
            cells['time'] = f'{mean(ratios[setting]):.2f}'
            cells[name] = f'{row[metric]:.4g}'
    panels[0].set(ylabel=metric, xlabel='multiply-accumulates (M)')
    panels[1].set(xlabel='time of the backbone, configured = 1')
    panels[0].legend()
    for panel in panels:
        panel.grid(alpha=0.3)
    image = save(figure, folder / f'sweep_{group}.png')
    configured = next(row for row in rows if row['configured'])
    noise = max(max(found) - min(found) for found in ratios.values())
    shape = f'{configured["height"]} {configured["width"]}'
    yield (
        f'## The dial, trained: {GROUPS[group][0].split(": ")[-1]}\n\n'
        f'{metric} of trained weights with other G1 and G2, without further '
        f'training; the configured ones are {name_of(configured)}. *elastic* '
        'weights saw several G1, G2 and sizes of images in training, with the '
        'same number of images. *time* is that of the backbone relative to '
        'the configured setting, the mean of the sweeps; they differ by up to '
        f'{noise:.2f}, and smaller differences in time show nothing. Lines '
        'are Pareto fronts, a point where one setting is the best and the '
        'cheapest. The command, with the config of a training and its last '
        'checkpoint or, of the same training, the float16 weights of the '
        'package:\n\n'
        '```bash\npython tools/analysis_tools/sweep_grids.py '
        f'CONFIG CHECKPOINT --shape {shape} '
        f'{grids_options(rows)}\n```\n\n'
        f'{markdown_table(list(table.values()))}\n\n'
        f'![{metric} over the cost of settings of G1 and G2]{image}\n'
    )


def robustness(folder: Path) -> Iterator[str]:
    """Corruptions and sizes, as functions of the dial."""
    tests = {
        path.stem.removeprefix('robustness_'): read_csv(path)
        for path in sorted(folder.glob('robustness_*.csv'))
    }
    if not tests:
        return
    metric = GROUPS['cifar10'][1]
    figure = Figure(figsize=(13, 4.5), layout='constrained')
    sizes, kinds = figure.subplots(1, 2, width_ratios=(1, 2), sharey=True)
    table = {}
    for name, rows in tests.items():
        for setting in dict.fromkeys(map(name_of, rows)):
            here = [row for row in rows if name_of(row) == setting]
            by_size = [
                (row['scale'] or GROUPS['cifar10'][2][0], row[metric])
                for row in here
                if row['corruption'] == CLEAN
            ]
            sizes.plot(*zip(*sorted(by_size), strict=True), marker='.')
            by_kind = {
                row['corruption']: row[metric]
                for row in here
                if not row['scale']
            }
            kinds.plot(
                list(by_kind),
                list(by_kind.values()),
                'o',
                label=f'{name}: {setting}',
            )
            cells = {'weights': name, 'G1; G2': setting}
            cells |= {kind: f'{v:.4g}' for kind, v in by_kind.items()}
            cells |= {
                f'{size} pixels': f'{value:.4g}'
                for size, value in sorted(by_size)
            }
            table[name, setting] = cells
    sizes.set(xlabel='side of the test images in pixels', ylabel=metric)
    kinds.tick_params('x', rotation=30)
    for panel in (sizes, kinds):
        panel.grid(alpha=0.3)
    figure.legend(loc='outside right upper', fontsize='small')
    image = save(figure, folder / 'robustness.png')
    scales = ' '.join(
        dict.fromkeys(str(row['scale']) for row in rows if row['scale'])
    )
    yield (
        '## Robustness: corruptions, sizes and the dial\n\n'
        f'{metric} on CIFAR-10 with corrupted test images and with test '
        'images of other sizes, without further training. *fixed* are the '
        'weights of the package, in float16, trained with images of 64 '
        'pixels; *elastic* saw 48, 64 and 80 pixels. The command, with the '
        'default corruptions:\n\n'
        '```bash\npython tools/analysis_tools/robustness.py '
        f'CONFIG CHECKPOINT {grids_options(rows)} '
        f'--scales {scales}\n```\n\n'
        f'{markdown_table(list(table.values()))}\n\n'
        f'![{metric} over sizes and corruptions]{image}\n'
    )


def check_test(name: str, path: str) -> None:
    """Refuse what the page could not show."""
    kind, _, rest = name.partition('_')
    columns = {'robustness': ['corruption', GROUPS['cifar10'][1]]}
    for group, (_, metric, *_) in GROUPS.items():
        prefix = f'sweep_{group}_'
        if name.startswith(prefix) and name != prefix:
            columns['sweep'] = ['latency_ratio', metric]
    if kind not in columns or not rest:
        raise ValueError(
            f"'{name}' is neither sweep_GROUP_NAME nor robustness_NAME"
        )
    rows = read_csv(path)
    if not rows or not rows[0].keys() >= set(columns[kind]):
        raise ValueError(f'{path} lacks {" or ".join(columns[kind])}')


def make_page(folder: Path) -> None:
    parts = [TEXT]
    for group in GROUPS:
        parts += trainings(folder, group)
    for group in GROUPS:
        parts += dials(folder, group)
    parts += robustness(folder)
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
        record = record_training(work_dir, GROUPS[group][2])
        if not (CONFIGS / f'{record["config"]}.py').exists():
            parser.error(f'{record["config"]} is not in {CONFIGS}')
        args.out.mkdir(parents=True, exist_ok=True)
        target = args.out / f'{group}_{record["name"]}.json'
        with replacing(target) as part:
            Path(part).write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    if args.add_test:
        name, path = args.add_test
        check_test(name, path)
        args.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, args.out / f'{name}.csv')
    if args.time:
        measure_times(args.out, args.time)
    make_page(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
