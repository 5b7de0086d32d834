#!/usr/bin/env python
import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.training_profile import profile_training
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)
from mmhatnet.engine.provenance import describe_machine

PAGE = """# Where the time of training goes

Made by `{command}` on {machine}: means of {steps} steps of one process. \
*images* are those of the data set. *data* is the wait for data, *backbone* \
is forward and backward, and *head* is everything after the backbone, with \
the losses.

{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Train for some steps, and show the shares of the time '
        'for the wait for data, the backbone, the head, the optimizer and '
        'the rest. No checkpoint is saved.'
    )
    parser.add_argument(
        'configs', nargs='+', help='names of models or config files'
    )
    parser.add_argument(
        '--steps', type=positive, default=20, help='steps (default: 20)'
    )
    parser.add_argument(
        '--skip', type=positive, default=3, help='before them (default: 3)'
    )
    parser.add_argument(
        '--out', type=Path, metavar='PAGE.md', help='also write a page'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    rows = []
    # One folder for all: mmengine's visualizer keeps the first one.
    with tempfile.TemporaryDirectory() as folder:
        for name in args.configs:
            cfg = load_model_config(name)
            apply_options(cfg, args)
            cfg.work_dir = folder
            found = profile_training(cfg, args.steps, args.skip)
            total = sum(map(sum, found.seconds.values()))
            row = {
                'config': f'`{Path(name).stem}`',
                'images': f'{found.images}',
                'step (s)': f'{total / args.steps:.3f}',
            }
            for part, seconds in found.seconds.items():
                row[part] = f'{sum(seconds) / total:.1%}'
            rows.append(row)
    page = PAGE.format(
        command=shlex.join(['python', *sys.argv]),
        machine=describe_machine(found.device),
        steps=args.steps,
        table=markdown_table(rows),
    )
    print(page)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page, 'utf-8')


if __name__ == '__main__':
    with one_line_errors():
        main()
