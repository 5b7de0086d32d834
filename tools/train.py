#!/usr/bin/env python
from mmengine.config import Config, ConfigDict

from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.cli import load_config, make_parser, one_line_errors
from mmhatnet.engine.resuming import find_checkpoints
from mmhatnet.engine.runner import (
    build_runner,
    lacks_bfloat16,
    stop_distributed,
)


def enable_amp(cfg: Config, dtype: str | None = None) -> None:
    """Train in this type, or else that of the config or the device."""
    wrapper = cfg.get('optim_wrapper') or ConfigDict()
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f'--amp does not support optim_wrapper.type={kind}')
    wrapper.type = 'AmpOptimWrapper'
    if dtype and dtype != wrapper.get('dtype', 'float16'):
        wrapper.dtype = dtype
        wrapper.pop('loss_scale', None)
    if 'bfloat16' not in str(wrapper.get('dtype')):
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    if lacks_bfloat16(cfg):
        raise ValueError(
            "mmcv's operators, which this model needs, do not support "
            "bfloat16: use --amp float16, or torchvision's by setting "
            'MMHATNET_OPERATORS=torchvision'
        )
    # It has the range of float32.
    wrapper.setdefault('loss_scale', dict(enabled=False))


def enable_auto_scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) '
            'in the config: the batch size of its learning rate'
        )
    cfg.auto_scale_lr.enable = True
    # mmengine does not count accumulated batches.
    wrapper = cfg.get('optim_wrapper') or {}
    counts = wrapper.get('accumulative_counts', 1)
    if counts != 1:
        cfg.auto_scale_lr.base_batch_size /= counts


def enable_resume(cfg: Config, chosen: str) -> None:
    """Without a checkpoint in the work_dir, 'auto' starts from load_from."""
    if chosen != 'auto':
        cfg.update(resume=True, load_from=chosen)
    elif find_checkpoints(cfg.work_dir):
        cfg.update(resume=True, load_from=None)


def main() -> None:
    arguments = make_parser('Train a model of any task.')
    add = arguments.add_argument
    add(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from a checkpoint; without a value, from '
        'the last one in the work_dir, if there is one',
    )
    add(
        '--amp',
        nargs='?',
        const=True,
        choices=('float16', 'bfloat16'),
        help='after CONFIG: train in mixed precision; without a value, in the '
        'type of the config or device',
    )
    add(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size, GPUs x images',
    )
    args = arguments.parse_args()
    cfg = load_config(args, load_model_config)
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
