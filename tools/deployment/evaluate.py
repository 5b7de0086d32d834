#!/usr/bin/env python
import argparse

from mmhatnet.apis.zoo import load_model_config
from mmhatnet.deploy.evaluation import evaluate_exported
from mmhatnet.engine.cli import add_cfg_options, apply_options, one_line_errors
from mmhatnet.utils.atomic import check_folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Evaluate an exported ONNX file with the test data and '
        'the metric of its config.'
    )
    add = parser.add_argument
    add('model', help='name of a model, or config file')
    add('file', metavar='FILE.onnx')
    add(
        '--work-dir',
        default='work_dirs/exported',
        help='folder for logs (default: work_dirs/exported)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    check_folder(args.work_dir)
    cfg.work_dir = args.work_dir
    evaluate_exported(cfg, args.file)


if __name__ == '__main__':
    with one_line_errors():
        main()
