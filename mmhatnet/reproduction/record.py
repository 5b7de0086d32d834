"""Small records of trainings, of which the page of evidence is made."""

import json
import re
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from ..analysis.complexity import measure_complexity
from ..analysis.timing import kept_memory
from ..config import read_config
from ..zoo import load_backbone_config
from .result import describe_run

# [epoch][iteration/iterations of an epoch], or [iteration/iterations].
PROGRESS = re.compile(r'Epoch\(train\) +\[\d+\]\[ *\d+/(\d+)\]')


def record_training(work_dir: str | Path, shape: tuple[int, int]) -> dict:
    """Summarize a training of one process from the logs that mm keeps.

    Args:
        work_dir (str | Path): The folder of the training; all resumed parts
            count.
        shape (tuple[int, int]): Height and width in pixels, for the
            operations.

    Returns:
        dict: ``name``, ``config``, ``seed``, ``precision`` (the dtype of
        training), ``parameters``, ``operations`` (multiply-accumulates),
        ``kept_memory`` (of the backbone for one image in float32, in bytes),
        ``curve`` (a dict for each validation with the number of ``images``
        seen so far, the ``seconds`` of training and the metrics), and
        versions, commit and machine as in ``result.json``.

    Raises:
        FileNotFoundError: If there is no config or no log.
        ValueError: If the training had no seed, or did not reach its end.
    """
    work_dir = Path(work_dir)
    configs = sorted(work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not configs or not logs:
        raise FileNotFoundError(f'no training in {work_dir}')
    cfg = read_config(configs[-1])
    points: dict[int, dict] = {}
    times = []
    for log in logs:
        for line in log.read_text('utf-8', 'replace').splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                times.append(entry['time'])
            elif 'step' in entry:
                step = entry.pop('step')
                points[step] = {
                    key: value
                    for key, value in entry.items()
                    if isinstance(value, int | float) and 'time' not in key
                }
    seed = cfg.get('randomness', {}).get('seed')
    if seed is None:
        raise ValueError(f'the training in {work_dir} has no randomness.seed')
    end = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    if end not in points:
        raise ValueError(
            f'{work_dir} has no validation after {end} of its steps: resume it'
        )
    iterations = _iterations(cfg, logs)
    batch_size = cfg.train_dataloader.batch_size
    complexity = measure_complexity(cfg, shape)
    backbone = MODELS.build({**load_backbone_config(cfg), 'init_cfg': None})
    backbone.train()  # returns nothing in some of the libraries
    return dict(
        name=work_dir.name,
        config=configs[-1].stem,
        seed=seed,
        precision=precision_of(cfg),
        parameters=complexity.params,
        operations=complexity.operations,
        shape=list(shape),
        kept_memory=kept_memory(backbone, torch.rand(1, 3, *shape)),
        curve=[
            dict(
                images=step * iterations * batch_size,
                seconds=round(step * iterations * median(times), 1),
                **metrics,
            )
            for step, metrics in sorted(points.items())
        ],
        **describe_run(),
    )


def precision_of(cfg: Config) -> str:
    """Find the dtype of a training.

    Args:
        cfg (Config): The config, as the training wrote it.

    Returns:
        str: 'float32', 'float16' or 'bfloat16'.
    """
    wrapper = cfg.optim_wrapper
    types = {
        'OptimWrapper': 'float32',
        'mmhatnet.BFloat16OptimWrapper': 'bfloat16',
    }
    return types.get(wrapper.get('type')) or wrapper.get('dtype', 'float16')


def _iterations(cfg: Config, logs: list[Path]) -> int:
    """Count the iterations in a step of mm's logs: an epoch, or 1."""
    if cfg.train_cfg.get('max_iters'):
        return 1
    for log in logs:
        for text in log.parents[1].glob('*.log'):
            match = PROGRESS.search(text.read_text('utf-8'))
            if match:
                return int(match[1])
    raise ValueError(f'{logs[0].parents[1]} has no log of the training')
