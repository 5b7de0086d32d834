#!/usr/bin/env python
import argparse
from pathlib import Path

from mmengine.registry import MODELS

from mmhatnet.analysis.benchmark import (
    FORMS,
    Case,
    Entry,
    make_table,
    measure,
)
from mmhatnet.analysis.report import read_csv, write_csv
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.cli import add_shape, one_line_errors, positive
from mmhatnet.models import HATNet
from mmhatnet.utils.device import find_device

FLAGS = '--plain', '--compile', '--compile-blocks', '--cuda-graph', '--with-cp'
OF_HATNET = {'plain', 'compile_blocks', 'with_cp'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure time and memory of backbones side by side, in '
        'turns. docs/benchmark.md explains the columns of the table.'
    )
    add = parser.add_argument
    add(
        'models',
        nargs='+',
        metavar='MODEL',
        help='names of models or config files, also of an installed library '
        '(mmdet::....py)',
    )
    for flag in FLAGS:
        form = flag[2:].replace('-', '_')
        models = 'HAT-Net' if form in OF_HATNET else 'model'
        add(
            flag,
            action='append_const',
            dest='forms',
            const=form,
            default=['eager'],
            help=f'also measure each {models} in this form: {FORMS[form]}',
        )
    add_shape(parser)
    add('--batch', type=positive, default=1, help='images (default: 1)')
    add('--train', action='store_true', help='measure forward and backward')
    add('--amp', choices=('bfloat16', 'float16'), help='type for autocast')
    add(
        '--rounds',
        type=positive,
        default=7,
        help='how often each model is timed, in turns (default: 7)',
    )
    add('--device', default='cpu', help='such as cpu or cuda (default: cpu)')
    add(
        '--out',
        type=Path,
        metavar='TABLE.csv',
        help='also write all times to this table, in place of those of an '
        'earlier call with the same images',
    )
    args = parser.parse_args()
    on_gpu = find_device(args.device).type == 'cuda'
    if 'cuda_graph' in args.forms and not on_gpu:
        parser.error('--cuda-graph needs --device cuda')
    if args.out and args.out.suffix != '.csv':
        parser.error(f'--out writes a .csv file, not {args.out}')
    return args


def list_entries(models: list[str], forms: list[str]) -> tuple[Entry, ...]:
    """The forms of each model, in the order of FORMS."""
    entries = []
    for model in models:
        found = set(forms)
        if MODELS.get(load_backbone_config(model).type) is not HATNet:
            found -= OF_HATNET
        entries += [Entry(model, form) for form in FORMS if form in found]
    for form in set(forms) - {entry.form for entry in entries}:
        raise ValueError(f'no model is a HATNet, so none has the form {form}')
    return tuple(entries)


def main() -> None:
    args = parse_args()
    case = Case(
        list_entries(args.models, args.forms),
        tuple(args.shape),
        *(args.batch, args.train, args.device, args.amp),
    )
    earlier = read_csv(args.out) if args.out else []  # before minutes
    rows = measure(case, args.rounds)
    print(f'{case}\n{make_table(rows)}')
    if args.out:
        kept = [row for row in earlier if row.get('case') != str(case)]
        write_csv(args.out, kept + rows)


if __name__ == '__main__':
    with one_line_errors():
        main()
