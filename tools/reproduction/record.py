"""Small records of trainings, from which the page of evidence is made."""

import re
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.timing import kept_memory
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.provenance import FILE, RUN, SETTINGS, read_provenance

from .logs import keep_numbers, read_logs, read_training_config

# Epoch(train) [epoch][iteration/iterations of an epoch]
PROGRESS = re.compile(r'Epoch\(train\) +\[\d+\]\[ *\d+/(\d+)\]')


def record_training(work_dir: str | Path, shape: tuple[int, int]) -> dict:
    """Summarize a training from its provenance and the logs that mm keeps.

    ``operations`` are those of the model, and ``kept_memory`` is what the
    backbone keeps for the backward pass, for one image (height, width) in
    float32. The settings and the files of weights are those of the first
    start. If a resumed one had other settings, ``training`` lists all starts.

    Raises:
        FileNotFoundError: If there is no config or no log.
        ValueError: If the start of the training was not recorded, or it did
            not reach its end.
    """
    work_dir = Path(work_dir)
    cfg = read_training_config(work_dir)
    starts = read_provenance(work_dir)
    if not starts or starts[0]['step']:
        lacks = 'start of the training in ' if starts else ''
        raise ValueError(
            f'{work_dir} has no {lacks}{FILE}: train it with this version'
        )
    described = [{key: x[key] for key in (*SETTINGS, *RUN)} for x in starts]
    differ = any(start != described[0] for start in described)
    points, losses = read_logs(work_dir)
    end = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    if end not in points:
        raise ValueError(
            f'{work_dir} has no validation after {end} of its steps: resume it'
        )
    if not losses:
        raise ValueError(
            f'{work_dir} has no logged iteration: let the logger hook write '
            'more often'
        )
    iterations = _count_iterations(cfg, work_dir)
    # Each accumulated batch is an iteration of its own.
    batch_size = cfg.train_dataloader.batch_size * starts[0]['processes']
    seconds = median(point['time'] for point in losses.values())
    complexity = measure_complexity(cfg, shape)
    backbone = MODELS.build({**load_backbone_config(cfg), 'init_cfg': None})
    backbone.train()  # returns nothing in some of the libraries
    return dict(
        name=work_dir.name,
        config=Path(cfg.filename).stem,
        parameters=complexity.params,
        operations=complexity.operations,
        shape=list(shape),
        kept_memory=kept_memory(backbone, torch.rand(1, 3, *shape)),
        curve=[
            dict(
                images=step * iterations * batch_size,
                seconds=round(step * iterations * seconds, 1),
                **keep_numbers(point),
            )
            for step, point in sorted(points.items())
        ],
        starts=len(starts),
        **described[0],
        weights=starts[0]['weights'],
        **(dict(training=starts) if differ else {}),
    )


def _count_iterations(cfg: Config, work_dir: Path) -> int:
    """Count the iterations in a step of mm's logs: an epoch, or 1."""
    if cfg.train_cfg.get('max_iters'):
        return 1
    for log in sorted(work_dir.glob('*/*.log')):
        match = PROGRESS.search(log.read_text('utf-8'))
        if match:
            return int(match[1])
    raise FileNotFoundError(
        f'no log in {work_dir} has a line "Epoch(train) [1][10/20]": let the '
        'logger hook write more often than once in an epoch'
    )
