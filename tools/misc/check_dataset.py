#!/usr/bin/env python
import argparse
import sys

from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine import cli
from mmhatnet.engine.checks import inspect_data

SPLITS = ('train', 'val', 'test')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Read all files of the data sets of a config, and list '
        'errors: damaged images, labels that do not fit, a wrong number of '
        'classes. Notes report what may be intended. The exit status is 1 if '
        'there are problems.'
    )
    add = parser.add_argument
    add('config', help='name of a model, or config file')
    what = 'data sets to read (default: all)'
    add('--splits', nargs='+', choices=SPLITS, default=SPLITS, help=what)
    cli.add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    cli.apply_options(cfg, args)
    problems = 0
    for name, found in inspect_data(cfg, args.splits).items():
        print(f'{name}: {found.images} images' if found.images else name)
        for line in found.problems:
            print(f'  problem: {line}')
        for line in found.notes:
            print(f'  note: {line}')
        problems += len(found.problems)
    if problems:
        sys.exit(f'{problems} problems')
    print('no problems')


if __name__ == '__main__':
    with cli.one_line_errors():
        main()
