#!/usr/bin/env python
"""Shows in docs/grids.md what G1, G2 and the size of images cost and give."""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import mean, stdev
from typing import NamedTuple

from common import (
    DOCS,
    ROOT,
    add_legend,
    fill_page,
    make_figure,
    plot_lines,
    read_json,
    save_figure,
    write_json,
)

from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.sweep import build_tester, evaluate_grids, name_sizes
from mmhatnet.deploy.curve import scale_tests
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import read_provenance
from mmhatnet.runtime import OnnxModel
from mmhatnet.utils.config import read_config

FOLDER = DOCS / 'sweeps' / 'dial'
CONFIGS = ROOT / 'configs' / 'evidence'
# The settings that are tested: each G2 with each factor of a task.
RATIOS = (4, 2, 1), (8, 4, 2), (16, 8, 4), (32, 16, 8)
Setting = tuple[tuple[int, ...], float]  # G2, and factor of the sizes
SCALES = 'custom_hooks.1.scales'
PIPELINE = 'train_dataloader.dataset.pipeline.2.ratio_range'


class Task(NamedTuple):
    """Short trainings that start from the same trained model."""

    config: str  # in configs/evidence
    metric: str  # mm's name
    unit: float  # a point of the metric
    factors: tuple[float, ...]  # of the sizes of test images
    configured: tuple[int, ...]  # G2 of the trained model
    drawing: str  # the option of the sizes in training


TASKS = dict(
    shapes=Task(
        'fpn_hatnet-micro-elastic_1xb2-120_demo-480x576',
        *('mIoU', 1.0, (0.5, 0.75, 1.0), (8, 4, 2), SCALES),
    ),
    trees=Task(
        'retinanet_hatnet-micro-elastic_fpn_1xb4-2e_trees',
        *('coco/bbox_mAP_50', 0.01, (0.5, 0.75, 1.0, 1.5)),
        *((16, 8, 4), PIPELINE),
    ),
)


def list_arms(task: Task) -> dict[str, tuple[Sequence, Sequence[float]]]:
    """List what is compared: G2 and factors to draw from, by name."""
    usual = [task.configured]
    arms: dict[str, tuple[Sequence, Sequence[float]]] = {
        'fixed': (usual, [1.0]),
        'G2 drawn': (RATIOS, [1.0]),
        'size drawn': (usual, task.factors),
        'both drawn': (RATIOS, task.factors),
    }
    others = [
        *(([ratio], [1.0]) for ratio in RATIOS if ratio != task.configured),
        *((usual, [factor]) for factor in task.factors if factor != 1),
    ]
    for (ratio,), (factor,) in others:
        arms[f'only {describe((ratio, factor))}'] = ([ratio], [factor])
    return arms


def describe(setting: Setting) -> str:
    return f'G2 {name_sizes(setting[0])}, size x {setting[1]:g}'


def file_name(task: str, arm: str, seed: int) -> str:
    return re.sub(r'[^\w.-]+', '-', f'{task}_{arm}-{seed}')


def train(name: str, arm: str, seed: int, work_dir: Path) -> dict:
    """Train and test one arm; a second call continues."""
    task = TASKS[name]
    config = CONFIGS / f'{task.config}.py'
    ratios, factors = list_arms(task)[arm]
    drawn: object = list(factors)
    if task.drawing == PIPELINE:
        drawn = min(factors), max(factors)
    options = {
        'custom_hooks.1.ds_ratios': list(ratios),
        task.drawing: drawn,
        'randomness.seed': seed,
        'train_cfg.val_interval': 9999,
    }
    pairs = [
        f'{key}={value}'.replace(' ', '') for key, value in options.items()
    ]
    command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--resume']
    command += ['--work-dir', work_dir, '--cfg-options', *pairs]
    before = getrusage(RUSAGE_CHILDREN).ru_utime
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = getrusage(RUSAGE_CHILDREN).ru_utime - before
    cfg = read_config(work_dir / config.name)
    checkpoint = (work_dir / 'last_checkpoint').read_text('utf-8')
    # One that was trained for a setting is tested there alone.
    if arm in ('fixed', 'G2 drawn', 'size drawn'):
        ratios, factors = RATIOS, task.factors
    rows = []
    for factor in factors:
        tester = build_tester(scale_tests(cfg, factor), checkpoint)
        for ratio in ratios:
            found = evaluate_grids(tester, (None, ratio))[task.metric]
            rows.append(dict(G2=ratio, factor=factor, metric=found))
    kept = 'commit', 'changes', 'machine', 'precision', 'versions'
    start = read_provenance(work_dir)[-1]
    record = dict(arm=arm, seed=seed, seconds=round(seconds, 1), rows=rows)
    return record | {key: start[key] for key in kept}


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/grids.md from docs/sweeps/dial.'
    )
    add = parser.add_argument
    add('--train', nargs=3, metavar=('TASK', 'ARM', 'SEED'))
    args = parser.parse_args()
    if args.train:
        task, arm, seed = args.train
        name = file_name(task, arm, int(seed))
        work_dir = ROOT / 'work_dirs' / 'dial' / name
        write_json(
            FOLDER / f'{name}.json', train(task, arm, int(seed), work_dir)
        )


if __name__ == '__main__':
    with one_line_errors():
        main()
