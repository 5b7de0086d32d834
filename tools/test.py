#!/usr/bin/env python
from mmhatnet.engine.cli import load_config, make_parser, one_line_errors
from mmhatnet.engine.runner import (
    build_runner,
    enable_out,
    enable_show,
    enable_tta,
    stop_distributed,
)


def main() -> None:
    arguments = make_parser('Evaluate a model of any task.')
    arguments.add_argument(
        'checkpoint', help='file, URL, or hatnet://NAME for a classifier'
    )
    arguments.add_argument(
        '--show-dir', help='folder for pictures of the predictions'
    )
    arguments.add_argument(
        '--tta',
        action='store_true',
        help='test with augmentation, where the config has tta_model',
    )
    arguments.add_argument(
        '--out', metavar='FILE.pkl', help='file for the predictions'
    )
    args = arguments.parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show_dir:
        enable_show(cfg, args.show_dir)
    if args.tta:
        enable_tta(cfg)
    if args.out:
        enable_out(cfg, args.out)
    build_runner(cfg, ('test',)).test()
    stop_distributed()


if __name__ == '__main__':
    with one_line_errors():
        main()
