#!/usr/bin/env python
import argparse
from collections.abc import Iterator
from pathlib import Path

from reproduction.experiments import find_experiment, list_experiments
from reproduction.run import reproduce

from mmhatnet.analysis.report import markdown_table
from mmhatnet.apis.zoo import find_model
from mmhatnet.engine.cli import one_line_errors, positive


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train and test a row of the paper's tables, and compare "
        'each metric with the published one. If it is interrupted, run the '
        'same command again to continue.'
    )
    add = parser.add_argument
    add('row', nargs='?', help='name of the row; see --list')
    add('--list', action='store_true', help='show all rows')
    add(
        '--gpus',
        type=positive,
        default=8,
        help='number of processes (default: 8, as in the recipes)',
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        '--from',
        dest='work_dir',
        type=Path,
        metavar='WORK_DIR',
        help='do not train, but test the finished training in this folder, '
        'for example one by tools/slurm_train.sh',
    )
    source.add_argument(
        '--test-only',
        metavar='CHECKPOINT',
        help="only test: a file, a URL or, for the authors' classifiers, "
        'hatnet://NAME',
    )
    add(
        '--smoke',
        action='store_true',
        help='the same steps on the demo data, in minutes; the metrics mean '
        'nothing',
    )
    add(
        '--folder',
        type=Path,
        default=Path('reproductions'),
        help='folder for the results (default: reproductions)',
    )
    args = parser.parse_args()
    if not args.row and not args.list:
        parser.error('give a row, or --list')
    return args


def list_rows() -> Iterator[dict[str, str]]:
    for name, experiment in list_experiments().items():
        metadata = find_model(experiment.model)['Metadata']
        unit = 'Epochs' if 'Epochs' in metadata else 'Iterations'
        printed = experiment.printed.items()
        yield {
            'row': name,
            'table': experiment.table,
            'published': ', '.join(f'{k} {v}' for k, v in printed),
            'training': f'{metadata[unit]} {unit.lower()}',
            'batch': str(metadata['Batch Size']),
            'data': metadata['Training Data'],
        }


def main() -> None:
    args = parse_args()
    if args.list:
        print(markdown_table(list(list_rows())))
        return
    suffix = '_smoke' * args.smoke + '_test-only' * bool(args.test_only)
    folder = args.folder / (args.row + suffix)
    result = reproduce(
        find_experiment(args.row),
        folder,
        args.gpus,
        args.work_dir,
        args.test_only,
        args.smoke,
    )
    note = ' (a smoke test: it means nothing)' * args.smoke
    for name, metric in result['metrics'].items():
        print(
            f'{name}: {metric["measured"]}, published {metric["printed"]}: '
            f'{metric["difference"]:+}, {"" if metric["within"] else "not "}'
            f'within the assumed spread of {metric["spread"]}{note}'
        )
    print(folder / 'result.json')


if __name__ == '__main__':
    with one_line_errors('reproduction'):
        main()
