#!/usr/bin/env python
"""Compares our operators with mmcv's compiled ones: docs/operators.md."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from common import DOCS, make_page, read_json, write_json
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmhatnet.analysis.report import markdown_table, show_ratios
from mmhatnet.analysis.timing import time_in_turns
from mmhatnet.apis.zoo import find_weights, load_model_config
from mmhatnet.datasets.random_batch import make_batch
from mmhatnet.engine.provenance import describe_machine
from mmhatnet.engine.runner import build_runner
from mmhatnet.operators import NAME, describe_operators, ext

DATA = DOCS / 'operators.json'
MODELS_COMPARED = (
    'retinanet_hatnet-tiny_fpn_8xb2-1x_coco',
    'faster-rcnn_hatnet-small_fpn_8xb2-1x_coco',
    'mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco',
    'cascade-mask-rcnn_hatnet-small_fpn_8xb2-1x_coco',
)
DETECTOR = 'tree-detector'
SHAPE = 160, 192  # of two images that are trained with
STEPS, ROUNDS = 20, 5


def use(operators: ModuleType) -> None:
    """Let all functions of mmcv.ops call these operators."""
    import mmcv.ops

    for info in pkgutil.iter_modules(mmcv.ops.__path__):
        if not info.name.startswith('_'):
            module = import_module(f'mmcv.ops.{info.name}')
            if hasattr(module, 'ext_module'):
                module.ext_module = operators


def build_step(name: str, operators: ModuleType) -> Callable[[], float]:
    """Build a model; the function trains it for a step, and has the loss."""
    cfg = load_model_config(name)
    cfg.model.backbone.init_cfg = None
    cfg.optim_wrapper.optimizer.lr = 1e-4
    init_default_scope('mmdet')
    use(operators)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)

    def train(seed: int = 0) -> float:
        use(operators)
        torch.manual_seed(seed)
        batch = make_batch('mmdet', SHAPE)
        torch.manual_seed(seed)
        return model.train_step(batch, wrapper)['loss'].item()

    return train


def compare_model(name: str, both: dict[str, ModuleType]) -> dict:
    """Train a model with both; times are taken alternately."""
    steps = {key: build_step(name, x) for key, x in both.items()}
    losses = {
        key: [train(seed) for seed in range(STEPS)]
        for key, train in steps.items()
    }
    training = time_in_turns(steps, ROUNDS)
    return dict(model=name, losses=losses, training=training)


def test_detector(both: dict[str, ModuleType]) -> dict:
    """Test a trained detector with both."""
    metrics, boxes = {}, []
    with TemporaryDirectory() as folder:
        for key, operators in both.items():
            use(operators)
            cfg = load_model_config(DETECTOR)
            cfg.load_from, cfg.work_dir = find_weights(DETECTOR), folder
            cfg.test_evaluator.outfile_prefix = f'{folder}/{key}'
            metrics[key] = build_runner(cfg, ('test',)).test()
            found = read_json(Path(folder, f'{key}.bbox.json'))
            rows = [[*x['bbox'], x['score']] for x in found]
            boxes.append(torch.tensor(rows).double())
    ours, theirs = boxes
    error = (ours - theirs).abs().amax(0)
    return dict(
        config=DETECTOR,
        metrics=metrics,
        objects=len(ours),
        pixels=error[:4].max().item(),
        scores=error[4].item(),
    )


def round_error(error: float) -> str:
    return f'{error:.0e}' if error else '0'


def compare_row(row: dict) -> dict[str, str]:
    """Make the row of a model."""
    losses = list(zip(*row['losses'].values(), strict=True))
    error = max(abs(ours - theirs) / abs(theirs) for ours, theirs in losses)
    pairs = zip(*row['training'].values(), strict=True)
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        'model': row['model'],
        f'losses of {len(losses)} iterations differ by': round_error(error),
        'time of a step': show_ratios(ratios),
    }


def show(data: dict) -> str:
    test, metric = data['test'], 'coco/bbox_mAP'
    ours, theirs = (x[metric] for x in test['metrics'].values())
    return (
        f'{markdown_table(list(map(compare_row, data["models"])))}\n\n'
        'Times are relative to those of the compiled operators, measured '
        f'alternately: median of {ROUNDS} rounds, and the range. Two images '
        f'of {SHAPE[0]}x{SHAPE[1]}, float32; {data["machine"]}.\n\n'
        f'`{test["config"]}`, trained, finds {test["objects"]} objects in the '
        f'test images with both. Their corners differ by '
        f'{round_error(test["pixels"])} pixels and their scores by '
        f'{round_error(test["scores"])} at most; {metric} is {ours} and '
        f'{theirs}.'
    )


def make_regions(measuring: bool) -> dict[str, str]:
    if measuring and not DATA.exists():
        if describe_operators() != 'mmcv':
            raise ValueError(
                "mmcv's operators are not compiled here: run "
                'tools/setup_env.sh --compiled'
            )
        both = dict(torchvision=ext, mmcv=import_module(NAME))
        models = [compare_model(name, both) for name in MODELS_COMPARED]
        data = dict(machine=describe_machine(), models=models)
        write_json(DATA, data | dict(test=test_detector(both)))
    return {'measured': show(read_json(DATA))}


if __name__ == '__main__':
    make_page(DATA.with_suffix('.md'), __doc__, make_regions)
