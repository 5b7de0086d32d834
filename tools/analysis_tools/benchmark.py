#!/usr/bin/env python
import argparse
import shlex
import sys
from pathlib import Path

from mmhatnet.analysis.comparison import comparison_page, comparison_table
from mmhatnet.analysis.forms import FORMS, Case
from mmhatnet.analysis.side_by_side import measure_cases
from mmhatnet.engine.cli import one_line_errors, positive


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure time, memory and the share of the peak of '
        'backbones side by side. After a stop, the same command continues.'
    )
    parser.add_argument(
        'backbones',
        nargs='+',
        metavar='[FORM:]BACKBONE',
        help='names of models or config files, also of an installed library '
        f'(mmdet::....py); FORM is one or more of {", ".join(FORMS)}; all '
        'are compared with the first',
    )
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        action='append',
        metavar=('H', 'W'),
        help='size of the images in pixels; may be repeated (default: 224 '
        '224)',
    )
    parser.add_argument(
        '--batch',
        type=positive,
        default=1,
        help='number of images (default: 1)',
    )
    parser.add_argument(
        '--train',
        action='store_true',
        help='measure forward and backward instead of inference',
    )
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        default='float32',
        help='other types than float32 use autocast (default: float32)',
    )
    parser.add_argument(
        '--keep-memory',
        action='store_true',
        help='let the allocator of the CPU (glibc) keep freed memory, for '
        'all backbones',
    )
    parser.add_argument(
        '--rounds',
        type=positive,
        default=7,
        help='repetitions (default: 7)',
    )
    parser.add_argument(
        '--device', default='cpu', help='such as cpu or cuda (default: cpu)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('outputs/benchmark.md'),
        metavar='PAGE.md',
        help='page for the tables, with all rows in a .csv beside it '
        '(default: outputs/benchmark.md)',
    )
    args = parser.parse_args()
    if args.out.suffix != '.md':
        parser.error(f'--out writes a .md file, not {args.out}')
    args.out.parent.mkdir(parents=True, exist_ok=True)  # not after minutes
    return args


def main() -> None:
    args = parse_args()
    cases = [
        Case(
            tuple(args.backbones),
            tuple(shape),
            args.batch,
            args.train,
            args.dtype,
            args.keep_memory,
        )
        for shape in args.shape or [(224, 224)]
    ]
    table = args.out.with_suffix('.csv')
    rows = measure_cases(cases, table, args.device, args.rounds)
    command = shlex.join(['python', *sys.argv])
    args.out.write_text(comparison_page(rows, command), 'utf-8')
    for case in cases:
        print(f'{case}\n{comparison_table(rows[str(case)])}\n')
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
