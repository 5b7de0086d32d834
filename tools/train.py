#!/usr/bin/env python
from mmhatnet.engine.cli import load_config, make_parser, one_line_errors
from mmhatnet.engine.runner import (
    build_runner,
    enable_amp,
    enable_auto_scale_lr,
    enable_resume,
    stop_distributed,
)


def main() -> None:
    arguments = make_parser('Train a model of any task.')
    arguments.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from a checkpoint; without a value, from '
        'the last one in the work_dir, if there is one',
    )
    arguments.add_argument(
        '--amp',
        nargs='?',
        const=True,
        choices=('float16', 'bfloat16'),
        help='after CONFIG: train in mixed precision; without a value, in the '
        'type of the config or device',
    )
    arguments.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size, GPUs x images',
    )
    args = arguments.parse_args()
    cfg = load_config(args)
    if args.amp:
        enable_amp(cfg, None if args.amp is True else args.amp)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.resume:
        enable_resume(cfg, args.resume)
    build_runner(cfg, ('train', 'val')).train()
    stop_distributed()


if __name__ == '__main__':
    with one_line_errors():
        main()
