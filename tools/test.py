#!/usr/bin/env python
import os
from copy import deepcopy

from mmengine.config import Config, ConfigDict

from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.checks import iter_datasets
from mmhatnet.engine.cli import load_config, make_parser, one_line_errors
from mmhatnet.engine.runner import build_runner, stop_distributed


def enable_show(cfg: Config, show_dir: str) -> None:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook or not cfg.get('visualizer'):
        raise ValueError(
            '--show-dir needs default_hooks.visualization and a visualizer '
            'in the config'
        )
    # Each library has its own settings.
    if cfg.get('default_scope') == 'mmpretrain':
        hook.update(enable=True, interval=1, out_dir=show_dir)
    elif cfg.get('default_scope') == 'mmdet':
        # mmdet puts a relative folder inside the work_dir.
        hook.update(draw=True, test_out_dir=os.path.abspath(show_dir))
    else:
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = show_dir


def enable_tta(cfg: Config) -> None:
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError(
            '--tta needs tta_model and tta_pipeline in the config; '
            'docs/training.md names configs that have both'
        )
    loader = cfg.get('test_dataloader') or {}
    for dataset in iter_datasets(loader.get('dataset')):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=deepcopy(cfg.model))


def enable_out(cfg: Config, out: str) -> None:
    if not out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out writes a .pkl file, not {out}')
    detects = cfg.get('default_scope') == 'mmdet'
    kind = 'DumpDetResults' if detects else 'DumpResults'
    metrics = cfg.get('test_evaluator') or []
    if isinstance(metrics, dict):
        metrics = [metrics]
    cfg.test_evaluator = [*metrics, dict(type=kind, out_file_path=out)]


def main() -> None:
    arguments = make_parser('Evaluate a model of any task.')
    add = arguments.add_argument
    add('checkpoint', help='file, URL or hatnet://NAME')
    add('--show-dir', help='folder for pictures of the predictions')
    add(
        '--tta',
        action='store_true',
        help='test with augmentation, where the config has tta_model',
    )
    add('--out', metavar='FILE.pkl', help='file for the predictions')
    args = arguments.parse_args()
    cfg = load_config(args, load_model_config)
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
