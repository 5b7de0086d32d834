#!/usr/bin/env python
import argparse
from pathlib import Path

from tqdm import tqdm

from mmhatnet.analysis.report import markdown_table
from mmhatnet.apis.zoo import find_model
from mmhatnet.engine.checks import check_data
from mmhatnet.engine.cli import one_line_errors, positive
from mmhatnet.engine.resuming import find_checkpoints
from mmhatnet.reproduction.experiments import (
    Experiment,
    find_experiment,
    list_experiments,
)
from mmhatnet.reproduction.result import read_result
from mmhatnet.reproduction.run import reproduce
from mmhatnet.utils.config import reading_metafiles_once


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train and test a row of the paper's tables, and compare "
        'each metric with print. After a stop, the same command goes on.'
    )
    parser.add_argument('row', nargs='?', help='name of the row; see --list')
    parser.add_argument('--list', action='store_true', help='show all rows')
    parser.add_argument(
        '--gpus',
        type=positive,
        default=8,
        help='number of processes (default: 8, as in the recipes)',
    )
    parser.add_argument(
        '--slurm', metavar='PARTITION', help='run on a Slurm cluster'
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        '--from',
        dest='work_dir',
        type=Path,
        metavar='WORK_DIR',
        help='folder of a training that exists',
    )
    source.add_argument(
        '--test-only',
        metavar='CHECKPOINT',
        help="only test: a file, a URL or, for the authors' classifiers, "
        'hatnet://NAME',
    )
    parser.add_argument(
        '--smoke',
        action='store_true',
        help='the same steps on the demo data, in minutes; the metrics mean '
        'nothing',
    )
    parser.add_argument(
        '--folder',
        type=Path,
        default=Path('reproductions'),
        help='folder for the results (default: reproductions)',
    )
    args = parser.parse_args()
    if not args.row and not args.list:
        parser.error('give a row, or --list')
    return args


def has_data(experiment: Experiment) -> bool:
    cfg = experiment.config()
    cfg.check_data = False
    try:
        check_data(cfg, ('train', 'val', 'test'))
    except FileNotFoundError:
        return False
    return True


def state(folder: Path) -> str:
    if read_result(folder / 'result.json'):
        return 'result'
    return 'checkpoint' if find_checkpoints(folder / 'train') else 'no'


def show(folder: Path) -> None:
    rows, data, costs = [], {}, {}
    experiments = list_experiments()
    for name, experiment in tqdm(
        experiments.items(), 'reading the configs', leave=False
    ):
        model = find_model(experiment.model)
        trained_on = model['Metadata']['Training Data']
        if trained_on not in data:
            data[trained_on] = has_data(experiment)
        backbone = experiment.config().model.backbone
        grids = [
            ', '.join(map(str, backbone[key]))
            for key in ('grid_sizes', 'ds_ratios')
        ]
        cost = (experiment.model, *grids)
        if cost not in costs:
            costs[cost] = experiment.operations
        printed = experiment.printed.items()
        rows.append(
            {
                'row': name,
                'table': experiment.table,
                'config': model['Config'],
                'G1': grids[0],
                'G2': grids[1],
                'print': ', '.join(f'{k} {v}' for k, v in printed),
                'data': 'yes' if data[trained_on] else 'no',
                'here': state(folder / name),
                'images seen (M)': f'{experiment.images / 1e6:.1f}',
                'operations (E)': f'{costs[cost] / 1e18:.2f}',
            }
        )
    print(markdown_table(rows))
    print(
        'here: the result, or a checkpoint of the training, is in '
        f'{folder}\n'
        'operations: multiply-accumulates of the whole training, 3 times the '
        'inference of each image'
    )


def main() -> None:
    args = parse_args()
    if args.list:
        with reading_metafiles_once():
            show(args.folder)
        return
    experiment = find_experiment(args.row)
    suffix = '_smoke' * args.smoke + '_test-only' * bool(args.test_only)
    folder = args.folder / (args.row + suffix)
    result = reproduce(
        experiment,
        folder,
        args.gpus,
        args.slurm,
        args.work_dir,
        args.test_only,
        args.smoke,
    )
    for name, metric in result['metrics'].items():
        verdict = 'within' if metric['within'] else 'not within'
        print(
            f'{name}: {metric["measured"]}, in print {metric["printed"]}: '
            f'{metric["difference"]:+}, {verdict} the assumed '
            f'spread of {metric["spread"]}'
            + (' (a smoke test: it means nothing)' if args.smoke else '')
        )
    if result['differences']:
        print('differs from the row in', ', '.join(result['differences']))
    print(folder / 'result.json')


if __name__ == '__main__':
    with one_line_errors():
        main()
