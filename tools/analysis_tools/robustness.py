#!/usr/bin/env python
import argparse
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path

from mmengine.config import Config, ConfigDict
from tqdm import tqdm

from mmhatnet.analysis.report import markdown_table, write_csv
from mmhatnet.analysis.sweep import (
    build_hatnet,
    build_tester,
    evaluate_grids,
    main_metric,
    name_sizes,
    read_rows,
    setting_of,
)
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.datasets.corruption import Corruption
from mmhatnet.engine.checks import iter_datasets
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_grids,
    apply_options,
    one_line_errors,
    positive,
)
from mmhatnet.models.archs import check_images, complete_grids

CLEAN = 'none'  # instead of a corruption
KINDS = (
    *('gaussian_noise', 'gaussian_blur', 'pixelate', 'jpeg_compression'),
    *('brightness', 'contrast'),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a trained model on corrupted test images and on '
        'images of other sizes, with all pairs of a G1 and a G2, without '
        'training. If it is interrupted, run the same command again to '
        'continue.'
    )
    add = parser.add_argument
    add('config', help='name of a model, or config file')
    add('checkpoint', help='file, URL or hatnet://NAME')
    add_grids(parser)
    add(
        '--corruptions',
        nargs='*',
        default=KINDS,
        metavar='KIND',
        help='corruptions of ImageNet-C, with severity 1 (default: '
        f'{" ".join(KINDS)})',
    )
    add(
        '--scales',
        type=positive,
        nargs='*',
        default=[],
        metavar='PIXELS',
        help='sizes to which the test images are resized, where a step of '
        "the test pipeline has a scale (default: the config's alone)",
    )
    add(
        '--out',
        type=Path,
        help='CSV file (default: work_dirs/robustness/CONFIG.csv)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    name = Path(args.config).stem
    args.out = args.out or Path('work_dirs', 'robustness', f'{name}.csv')
    return args


def change_images(cfg: Config, kind: str, scale: int) -> Config:
    """Copy a config, with corrupted or resized test images.

    CLEAN and 0 leave the images as they are.
    """
    cfg = deepcopy(cfg)
    for dataset in iter_datasets(cfg.test_dataloader.dataset):
        steps = dataset.pipeline
        if kind != CLEAN:
            Corruption(kind)  # finds errors before the first test
            if 'LoadImage' not in steps[0].type:
                raise ValueError(
                    'the first step of the test pipeline must load the image, '
                    f'but is {steps[0].type}'
                )
            step = dict(type='mmhatnet.Corruption', kind=kind)
            steps.insert(1, ConfigDict(step))
        if scale:
            _resize(steps, scale)
    return cfg


def _resize(steps: list, scale: int) -> None:
    scaled = [step for step in steps if 'scale' in step]
    if not scaled:
        raise ValueError(
            'no step of the test pipeline has a scale, which --scales sets'
        )
    if any('Crop' in step.type for step in steps):
        raise ValueError('a crop of the test pipeline fixes the size')
    for step in scaled:
        single = isinstance(step.scale, int)
        step.scale = scale if single else (scale, scale)


def measure(cfg: Config, args: argparse.Namespace) -> list[dict]:
    """Test each condition and setting, and save the rows after each."""
    backbone = build_hatnet(cfg)
    for scale in args.scales:
        check_images((1, 3, scale, scale), backbone.stride)
    grids = complete_grids(backbone, list(product(args.g1, args.g2)))
    rows, fingerprint = read_rows(args.out, cfg, args.checkpoint)
    conditions = [
        *((kind, 0) for kind in dict.fromkeys((CLEAN, *args.corruptions))),
        *((CLEAN, scale) for scale in dict.fromkeys(args.scales)),
    ]
    changed = [change_images(cfg, *condition) for condition in conditions]
    done = {(r['corruption'], r['scale'], setting_of(r)) for r in rows}
    tests = zip(conditions, changed, strict=True)
    for condition, test_cfg in tqdm(list(tests), unit='test'):
        todo = [x for x in grids if (*condition, x) not in done]
        runner = build_tester(test_cfg, args.checkpoint) if todo else None
        for g1, g2 in todo:
            row = dict(G1=g1, G2=g2, corruption=condition[0])
            row.update(scale=condition[1], fingerprint=fingerprint)
            rows.append(row | evaluate_grids(runner, (g1, g2)))
            write_csv(args.out, rows)
    return rows


def table_rows(rows: list[dict], metric: str) -> Iterator[dict]:
    for setting in dict.fromkeys(map(setting_of, rows)):
        cells = {'G1; G2': '; '.join(map(name_sizes, setting))}
        for row in rows:
            if setting_of(row) == setting:
                kind, scale = row['corruption'], row['scale']
                kind = 'as it is' if kind == CLEAN else kind
                title = f'{scale} pixels' if scale else kind
                cells[title] = f'{row[metric]:.4g}'
        yield cells


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    rows = measure(cfg, args)
    metric = main_metric(cfg, rows)
    table = markdown_table(list(table_rows(rows, metric)))
    print(f'{metric}:\n\n{table}\n\n{args.out}')


if __name__ == '__main__':
    with one_line_errors():
        main()
