#!/usr/bin/env python
"""Stores results of tools/reproduce.py for the model zoo."""

import argparse
import json
from pathlib import Path

from common import DOCS, write_text
from reproduction.experiments import find_experiment
from reproduction.result import check_result, read_result

from mmhatnet.engine.cli import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Check results of tools/reproduce.py, ours or yours, and '
        'store them in docs/reproductions. Then tools/pages/model_zoo.py '
        'writes them into the metafiles and the tables.'
    )
    add = parser.add_argument
    add('results', nargs='+', type=Path, metavar='RESULT.json')
    add(
        '--out',
        type=Path,
        default=DOCS / 'reproductions',
        help='folder to store them in (default: docs/reproductions)',
    )
    args = parser.parse_args()
    for path in args.results:
        result = read_result(path)
        if not result:
            raise ValueError(f'{path} is not a result')
        row = find_experiment(str(result.get('row')))
        check_result(result, row, path)
        target = args.out / f'{row.name}.json'
        write_text(target, json.dumps(result, indent=1, allow_nan=False))
        print(target)


if __name__ == '__main__':
    with one_line_errors('reproduction'):
        main()
