#!/usr/bin/env python
"""Stores results of tools/reproduce.py for the model zoo."""

import argparse
import json
import sys
from pathlib import Path

from mmhatnet.engine.cli import one_line_errors
from mmhatnet.reproduction.experiments import find_experiment
from mmhatnet.reproduction.result import check_result
from mmhatnet.utils.atomic import replacing

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Check results of tools/reproduce.py, ours or of others, '
        'and store them in docs/reproductions. Then tools/pages/model_zoo.py '
        'writes them into the metafiles and the tables.'
    )
    parser.add_argument('results', nargs='+', type=Path, metavar='RESULT.json')
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs' / 'reproductions',
        help='folder to store them in (default: docs/reproductions)',
    )
    args = parser.parse_args()
    for path in args.results:
        try:
            result = json.loads(path.read_text('utf-8'))
        except ValueError as error:
            sys.exit(f'reproductions.py: error: {path}: {error}')
        if not isinstance(result, dict):
            sys.exit(f'reproductions.py: error: {path} is no result')
        row = find_experiment(str(result.get('row')))
        check_result(result, row, str(path))
        args.out.mkdir(parents=True, exist_ok=True)
        target = args.out / f'{row.name}.json'
        with replacing(target) as part:
            Path(part).write_text(json.dumps(result, indent=1), 'utf-8')
        print(target)


if __name__ == '__main__':
    with one_line_errors():
        main()
