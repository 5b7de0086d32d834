#!/usr/bin/env python
import argparse
from dataclasses import fields
from pathlib import Path

from mmengine.registry import MODELS

from mmhatnet.analysis.benchmark import (
    FORMS,
    Case,
    Entry,
    make_table,
    measure_cases,
)
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.cli import add_shape, one_line_errors, positive
from mmhatnet.models import HATNet
from mmhatnet.utils.device import find_device

OF_HATNET = '--plain', '--compile-blocks', '--with-cp'


def form_of(option: str) -> str:
    return option[2:].replace('-', '_')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure time and memory of backbones side by side, in '
        'turns. docs/benchmark.md explains the columns of the table. If it is '
        'interrupted, run the same command again to continue.'
    )
    add = parser.add_argument
    add(
        'models',
        nargs='+',
        metavar='MODEL',
        help='names of models or config files, also of an installed library '
        '(mmdet::....py)',
    )
    for option in *OF_HATNET, '--compile', '--cuda-graph':
        form = form_of(option)
        which = 'HAT-Net' if option in OF_HATNET else 'model'
        add(
            option,
            action='append_const',
            dest='forms',
            const=form,
            default=['eager'],
            help=f'also measure each {which} in this form: {FORMS[form]}',
        )
    add_shape(parser)
    add('--batch', type=positive, default=1, help='images (default: 1)')
    add('--train', action='store_true', help='measure forward and backward')
    add('--amp', choices=('bfloat16', 'float16'), help='type for autocast')
    add(
        '--whole-model',
        action='store_true',
        help='predict with whole models, from pixels to boxes or labels',
    )
    add(
        '--keep-memory',
        action='store_true',
        help='let the allocator of the CPU (glibc) keep freed memory',
    )
    add('--rounds', type=positive, default=7, help='turns (default: 7)')
    add('--device', default='cpu', help='such as cpu or cuda (default: cpu)')
    add(
        '--out',
        type=Path,
        default=Path('outputs/benchmark.csv'),
        metavar='TABLE.csv',
        help='all measurements (default: outputs/benchmark.csv)',
    )
    args = parser.parse_args()
    on_gpu = find_device(args.device).type == 'cuda'
    if 'cuda_graph' in args.forms and (args.train or not on_gpu):
        parser.error('--cuda-graph is for inference on a GPU')
    if args.whole_model and (args.train or {*args.forms} - {'eager', 'plain'}):
        parser.error('--whole-model is for inference, alone or with --plain')
    if args.out.suffix != '.csv':
        parser.error(f'--out writes a .csv file, not {args.out}')
    args.out.parent.mkdir(parents=True, exist_ok=True)  # not after minutes
    return args


def list_entries(models: list[str], forms: list[str]) -> tuple[Entry, ...]:
    """The forms of each model, in the order of FORMS."""
    entries = []
    for model in models:
        found = set(forms)
        if MODELS.get(load_backbone_config(model).type) is not HATNet:
            found -= set(map(form_of, OF_HATNET))
        entries += [Entry(model, form) for form in FORMS if form in found]
    for form in set(forms) - {entry.form for entry in entries}:
        raise ValueError(f'no model is a HATNet, so none has the form {form}')
    return tuple(entries)


def main() -> None:
    args = parse_args()
    entries = list_entries(args.models, args.forms)
    args.shape = tuple(args.shape)
    settings = {x.name: vars(args)[x.name] for x in fields(Case)[1:]}
    case = Case(entries, **settings)
    rows = measure_cases([case], args.out, args.rounds)
    print(f'{case}\n{make_table(rows[str(case)])}\n{args.out}')


if __name__ == '__main__':
    with one_line_errors():
        main()
