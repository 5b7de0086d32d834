#!/usr/bin/env python
import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.checks import inspect_data
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)

SPLITS = ('train', 'val', 'test')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Read all files of the data sets of a config, and name '
        'what is wrong: damaged images, labels that do not fit, boxes outside '
        'of images, a wrong number of classes, settings that contradict each '
        'other. The exit status is 1 if there '
        'are problems; notes are what the library leaves out without a word.'
    )
    parser.add_argument('config', help='name of a model, or config file')
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=SPLITS,
        default=SPLITS,
        help='data sets to read (default: all)',
    )
    parser.add_argument(
        '--workers',
        type=positive,
        default=os.cpu_count(),
        help='number of processes (default: one for each core)',
    )
    parser.add_argument(
        '--shown',
        type=positive,
        default=10,
        help='number of lines of each kind (default: 10)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='JSON file for all lines and the number of samples of each class',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def show(kind: str, lines: list[str], shown: int) -> None:
    for line in lines[:shown]:
        print(f'  {kind}: {line}')
    if len(lines) > shown:
        print(f'  {kind}: {len(lines) - shown} more (--out writes all)')


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    found = inspect_data(cfg, args.splits, args.workers)
    for name, inspection in found.items():
        used = sum(map(bool, inspection.classes.values()))
        counts = (
            f': {inspection.images} images, {used} of '
            f'{len(inspection.classes)} classes'
        )
        print(f'{name}{counts if inspection.images else ""}')
        show('problem', inspection.problems, args.shown)
        show('note', inspection.notes, args.shown)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        report = {name: asdict(x) for name, x in found.items()}
        args.out.write_text(json.dumps(report, indent=1), 'utf-8')
    problems = sum(len(x.problems) for x in found.values())
    if problems:
        sys.exit(f'{problems} problems')
    print('no problems')


if __name__ == '__main__':
    with one_line_errors():
        main()
