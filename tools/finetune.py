#!/usr/bin/env python
import argparse
from pathlib import Path

from mmhatnet.engine.cli import add_cfg_options, grid_sizes, one_line_errors
from mmhatnet.finetune.command import finetune
from mmhatnet.finetune.plan import ORDER
from mmhatnet.utils.arguments import duration, positive
from mmhatnet.utils.atomic import check_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a model on your own folder of images and labels: '
        'recognize what is there, choose the model and its schedule, train, '
        'evaluate, draw and export. If it is interrupted, the same command '
        'continues.'
    )
    add = parser.add_argument
    add('path', type=Path, help='folder of images and labels; left unchanged')
    add(
        '--budget',
        type=duration,
        default='15m',
        help='time for everything on this machine, such as 90s, 15m or 2h; '
        'the export takes at least one or two minutes (default: 15m)',
    )
    add(
        '--work-dir', type=Path, help='default: work_dirs/<name of the folder>'
    )
    add('--arch', choices=ORDER, help='size of HAT-Net')
    add(
        '--weights',
        help="start weights: a file, URL, hatnet://NAME, or 'none' for a "
        'random start',
    )
    add('--size', type=positive, help='side of the images in pixels')
    add('--batch-size', type=positive, help='images per step')
    add('--lr', type=float, help='learning rate')
    add('--g1', type=grid_sizes, metavar='A,B,C', help='G1, such as 8,8,8')
    add('--g2', type=grid_sizes, metavar='A,B,C', help='G2, such as 8,4,2')
    add(
        '--iters',
        type=positive,
        help='number of steps, however long they take',
    )
    add('--seed', type=int, default=0, help='of split and training; default 0')
    add('--no-export', action='store_true', help='write no ONNX file')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.size and not 32 <= args.size <= 4096:
        parser.error(f'--size is from 32 to 4096, not {args.size}')
    if not 0 <= args.seed < 2**32:
        parser.error(f'--seed is from 0 to 2**32 - 1, not {args.seed}')
    if args.lr is not None and not args.lr > 0:
        parser.error(f'--lr is a positive number, not {args.lr}')
    args.work_dir = args.work_dir or Path(
        'work_dirs', args.path.resolve().name
    )
    check_folder(args.work_dir)
    return args


if __name__ == '__main__':
    with one_line_errors():
        finetune(parse_args())
