#!/usr/bin/env python
"""Makes docs/evidence.md from the trainings in docs/evidence."""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from mmhatnet.analysis.report import markdown_table
from mmhatnet.atomic import replacing
from mmhatnet.cli import one_line_errors
from mmhatnet.reproduction.record import record_training

FOLDER = Path(__file__).resolve().parents[2] / 'docs' / 'evidence'
# Group -> title, metric, size of the images, what was trained.
GROUPS = {
    'cifar10': (
        'Classification from scratch: CIFAR-10',
        'accuracy/top1',
        (64, 64),
        'All 50,000 images of CIFAR-10, enlarged to 64x64; accuracy on the '
        '10,000 test images. All models have the same pipeline, optimizer and '
        'number of images.',
    ),
    'trees': (
        'Detection: tree crowns',
        'coco/bbox_mAP_50',
        (400, 400),
        'RetinaNet, trained on one aerial photograph and tested on three '
        'others, two of them of other sites.',
    ),
}
TEXT = """# Evidence

Trainings on real data, with seeds, versions and machines in `docs/evidence/`.
The command of each is `python tools/train.py configs/evidence/CONFIG
--cfg-options randomness.seed=SEED`, with the config and the seed of the table.
"""


def section(group: str, records: list[dict], folder: Path) -> str:
    title, metric, shape, text = GROUPS[group]
    rows = [
        {
            'config': f'`{record["config"]}`',
            'seed': str(record['seed']),
            'parameters (M)': f'{record["parameters"] / 1e6:.2f}',
            'operations (M)': f'{record["operations"] / 1e6:.0f}',
            'images seen': f'{record["curve"][-1]["images"]}',
            metric: f'{record["curve"][-1][metric]:.2f}',
            'machine': record['machine'],
        }
        for record in records
    ]
    figure = Figure(figsize=(9, 3.5), layout='constrained')
    over_images, over_operations = figure.subplots(1, 2, sharey=True)
    for record in records:
        images = [point['images'] for point in record['curve']]
        values = [point[metric] for point in record['curve']]
        # The backward pass has two products for each of the forward pass.
        operations = [3e-15 * n * record['operations'] for n in images]
        label = record['name']
        over_images.plot(images, values, marker='.', label=label)
        over_operations.plot(operations, values, marker='.', label=label)
    over_images.set(xlabel='images seen', ylabel=metric)
    over_operations.set(xlabel='multiply-accumulates of training (P)')
    over_images.legend(fontsize='small')
    with replacing(folder / f'{group}.png') as part:
        figure.savefig(part, format='png', dpi=100)
    return '\n'.join(
        [
            f'## {title}\n',
            text + ' *operations* are the multiply-accumulates of an image of '
            f'{shape[0]}x{shape[1]}.\n',
            markdown_table(rows),
            f'\n![{metric} over images and operations]'
            f'({folder.name}/{group}.png)\n',
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Make docs/evidence.md from the trainings that were added '
        'to docs/evidence.'
    )
    parser.add_argument(
        '--add',
        nargs=2,
        metavar=('GROUP', 'WORK_DIR'),
        help=f'add a training first; GROUP is one of {", ".join(GROUPS)}',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=FOLDER,
        help='folder of the trainings; the page is beside it (default: '
        'docs/evidence)',
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.add:
        group, work_dir = args.add
        if group not in GROUPS:
            parser.error(
                f"no group '{group}': choose from {', '.join(GROUPS)}"
            )
        record = record_training(work_dir, GROUPS[group][2])
        target = args.out / f'{group}_{record["name"]}.json'
        with replacing(target) as part:
            Path(part).write_text(json.dumps(record, indent=1) + '\n')
    parts = [TEXT]
    for group in GROUPS:
        found = [
            json.loads(path.read_text())
            for path in sorted(args.out.glob(f'{group}_*.json'))
        ]
        if found:
            parts.append(section(group, found, args.out))
    with replacing(args.out.with_suffix('.md')) as part:
        Path(part).write_text('\n'.join(parts).rstrip() + '\n')


if __name__ == '__main__':
    with one_line_errors():
        main()
