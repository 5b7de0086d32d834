"""Measure a trained model on corrupted and resized test images.

``tools/analysis_tools/robustness.py`` is a command over this module.
"""

import os
from collections.abc import Iterator, Sequence
from copy import deepcopy

from mmengine.config import Config, ConfigDict
from tqdm import tqdm

from ..engine.checks import iter_datasets
from ..models.archs import check_image_size
from .report import write_csv
from .sweep import (
    Grids,
    build_hatnet,
    build_tester,
    complete_grids,
    read_rows,
    setting_of,
)

CLEAN = 'none'


def corrupt(cfg: Config, kind: str) -> Config:
    """Corrupt the test images of a config.

    Args:
        cfg (Config): The config.
        kind (str): As in
            :class:`~mmhatnet.datasets.corruption.Corruption`, or 'none'.

    Returns:
        Config: A changed copy.

    Raises:
        ValueError: If the test pipeline does not begin with the loading of an
            image.
    """
    cfg = deepcopy(cfg)
    if kind != CLEAN:
        step = ConfigDict(type='mmhatnet.Corruption', kind=kind)
        for dataset in iter_datasets(cfg.test_dataloader.dataset):
            if 'LoadImage' not in dataset.pipeline[0].type:
                raise ValueError('the test pipeline loads no image')
            dataset.pipeline.insert(1, step)
    return cfg


def resize(cfg: Config, scale: int) -> Config:
    """Change the size to which the test images of a config are resized.

    Args:
        cfg (Config): The config.
        scale (int): The side in pixels; 0 changes nothing.

    Returns:
        Config: A changed copy.

    Raises:
        ValueError: If no step of the pipeline has a ``scale``, or one crops.
    """
    cfg = deepcopy(cfg)
    if not scale:
        return cfg
    for dataset in iter_datasets(cfg.test_dataloader.dataset):
        steps = [step for step in dataset.pipeline if 'scale' in step]
        if not steps:
            raise ValueError(
                'no step of the test pipeline has a scale, which --scales sets'
            )
        if any('Crop' in step.type for step in dataset.pipeline):
            raise ValueError('a crop of the test pipeline fixes the size')
        for step in steps:
            single = isinstance(step['scale'], int)
            step['scale'] = scale if single else (scale, scale)
    return cfg


def measure_robustness(
    cfg: Config,
    checkpoint: str,
    grids: Sequence[Grids],
    path: str | os.PathLike,
    kinds: Sequence[str] = (),
    scales: Sequence[int] = (),
) -> list[dict]:
    """Evaluate a model on corrupted and on resized images.

    Rows are saved after each evaluation; a second call continues where the
    first one stopped.

    Args:
        cfg (Config): The config of a model with a HATNet, with a
            ``work_dir``.
        checkpoint (str): A file, URL or ``hatnet://NAME``.
        grids (Sequence[Grids]): Pairs of G1 and G2. None instead of either
            means the configured value.
        path (str | PathLike): The CSV file to write.
        kinds (Sequence[str]): Corruptions, at the configured size.
        scales (Sequence[int]): Sizes in pixels, without corruption.

    Returns:
        list[dict]: The rows, one for each condition and setting: ``G1``,
        ``G2``, ``corruption``, ``scale`` (0 if configured), the metrics and
        ``fingerprint``. The first condition is the configured one.

    Raises:
        FileNotFoundError: If the data or the checkpoint do not exist.
        ValueError: If a setting or a size is not valid, or the file belongs
            to another config or checkpoint.
    """
    backbone = build_hatnet(cfg)
    for scale in scales:
        check_image_size(scale, scale, backbone.stride)
    grids = complete_grids(backbone, grids)
    rows, fingerprint = read_rows(path, cfg, checkpoint)
    tests = [
        (kind, scale, resize(corrupt(cfg, kind), scale))
        for kind, scale in _conditions(kinds, scales)
    ]
    for kind, scale, changed in tqdm(tests, unit='test'):
        done = {
            setting_of(row)
            for row in rows
            if (row['corruption'], row['scale']) == (kind, scale)
        }
        todo = [setting for setting in grids if setting not in done]
        if not todo:
            continue
        runner = build_tester(changed, checkpoint)
        for setting in todo:
            runner.model.backbone.set_grids(*setting)
            metrics = {k: float(v) for k, v in runner.test().items()}
            rows.append(
                dict(
                    G1=setting[0],
                    G2=setting[1],
                    corruption=kind,
                    scale=scale,
                    **metrics,
                    fingerprint=fingerprint,
                )
            )
            write_csv(path, rows)
    return rows


def _conditions(
    kinds: Sequence[str], scales: Sequence[int]
) -> Iterator[tuple[str, int]]:
    yield CLEAN, 0
    yield from ((kind, 0) for kind in kinds if kind != CLEAN)
    yield from ((CLEAN, scale) for scale in scales)
