"""Measure a trained model under many settings of G1 and G2.

``tools/analysis_tools/sweep_grids.py`` is a command over this module.
"""

import hashlib
import os
from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from operator import truediv
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS
from mmengine.runner import Runner
from tqdm import tqdm

from ..apis.zoo import load_backbone_config
from ..engine.provenance import describe_machine
from ..engine.runner import build_runner
from ..models import HATNet
from ..models.archs import Grids, Ratio, as_integers, complete_grids
from ..utils.hashes import sha256_of
from ..weights.releases import locate_weights
from .complexity import count_operations
from .report import read_csv, write_csv
from .timing import peak_memory, time_in_turns

# All other columns are metrics.
COLUMNS = {
    *('G1', 'G2', 'configured', 'height', 'width'),
    *('operations', 'memory', 'latency', 'latency_ratio'),
    *('latency_ratio_min', 'latency_ratio_max'),
    *('machine', 'fingerprint'),
}


def sweep_grids(
    cfg: Config,
    grids: Sequence[Grids],
    shapes: Sequence[tuple[int, int]],
    out_dir: str | os.PathLike,
    checkpoint: str | None = None,
    rounds: int = 10,
) -> list[dict]:
    """Measure a model under many settings of G1 and G2, without training.

    Each setting is evaluated on the test data, and its operations are counted.
    Time and memory of the backbone are measured with one image of each shape.
    A setting takes turns with the configured one, so that the ratio of their
    times holds on a busy machine. Rows are saved after each setting; a second
    call continues where the first one stopped.

    Args:
        cfg (Config): The config of a model with a HATNet, with a ``work_dir``
            if there is a checkpoint.
        grids (Sequence[Grids]): As for ``complete_grids``. The configured
            setting is added.
        shapes (Sequence[tuple[int, int]]): Heights and widths in pixels.
        out_dir (str | PathLike): Folder for ``grids.csv``.
        checkpoint (str, optional): A file, URL or ``hatnet://NAME``. Defaults
            to None: only the costs are measured, and no data are needed.
        rounds (int): Repetitions of measurements of time. Defaults to 10.

    Returns:
        list[dict]: The rows of ``grids.csv``, one for each setting and shape:
        COLUMNS (operations; latency in seconds; peak memory in bytes, if it
        can be measured) and the metrics of the evaluation.

    Raises:
        FileNotFoundError: If the data or the checkpoint do not exist.
        ValueError: If the backbone is not a HATNet, a setting is not valid,
            or ``grids.csv`` belongs to another config, checkpoint or machine.
    """
    cfg = deepcopy(cfg)
    backbone = build_hatnet(cfg)
    configured = (backbone.grid_sizes, backbone.ds_ratios)
    grids = complete_grids(backbone, [configured, *grids])
    path = Path(out_dir) / 'grids.csv'
    rows, fingerprint = read_rows(path, cfg, checkpoint)
    backbone.to(get_device()).eval()
    machine = describe_machine(get_device())
    if any(row['machine'] != machine for row in rows):
        raise ValueError(
            f'{path} has times of another machine, {rows[0]["machine"]}: '
            'delete it, or choose another place'
        )
    runner = None
    done = {(setting_of(row), shape_of(row)) for row in rows}
    metrics = {setting_of(row): metrics_of(row) for row in rows}
    for setting in tqdm(grids, unit='setting'):
        todo = [shape for shape in shapes if (setting, shape) not in done]
        if checkpoint and todo and setting not in metrics:
            runner = runner or build_tester(cfg, checkpoint)
            metrics[setting] = evaluate_grids(runner, setting)
        rows += [
            dict(
                G1=setting[0],
                G2=setting[1],
                configured=setting == configured,
                height=shape[0],
                width=shape[1],
                **_costs(cfg, backbone, setting, configured, shape, rounds),
                machine=machine,
                fingerprint=fingerprint,
                **metrics.get(setting, {}),
            )
            for shape in todo
        ]
        write_csv(path, rows)
    return rows


def build_hatnet(cfg: Config) -> HATNet:
    """Build the backbone of a model, with random weights.

    Raises:
        ValueError: If it is not a HATNet.
    """
    backbone = MODELS.build({**load_backbone_config(cfg), 'init_cfg': None})
    if not isinstance(backbone, HATNet):
        raise ValueError(
            f'the backbone is a {type(backbone).__name__}; only HATNet has '
            'G1 and G2'
        )
    return backbone


def nearby_grids(backbone: HATNet) -> list[Grids]:
    """List all pairs of half, once and twice the G1 and G2 of a backbone.

    G2 stays as it is if it is 'auto'.
    """

    def scaled(sides: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [
            tuple(max(1, round(side * factor)) for side in sides)
            for factor in (0.5, 1, 2)
        ]

    numbers = as_integers(backbone.ds_ratios)
    ratios = scaled(numbers) if numbers else [backbone.ds_ratios]
    return list(product(scaled(backbone.grid_sizes), ratios))


def read_rows(
    path: str | os.PathLike, cfg: Config, checkpoint: str | None
) -> tuple[list[dict], str]:
    """Read the rows that an interrupted measurement of a model left.

    Returns:
        tuple[list[dict], str]: The rows, if there is such a CSV file, and the
        ``fingerprint`` of config and checkpoint that each row has.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the file belongs to another config or checkpoint.
    """
    rows, fingerprint = read_csv(path), _fingerprint(cfg, checkpoint)
    if any(row.get('fingerprint') != fingerprint for row in rows):
        raise ValueError(
            f'{path} was measured with another config or checkpoint: delete '
            'it, or choose another place'
        )
    return rows, fingerprint


def _fingerprint(cfg: Config, checkpoint: str | None) -> str:
    # Only the content counts, not where the file and the logs are.
    if checkpoint:
        checkpoint = sha256_of(locate_weights(checkpoint))
    settings = {**cfg.to_dict(), 'work_dir': None}
    content = str([settings, checkpoint]).encode()
    return f'sha256:{hashlib.sha256(content).hexdigest()[:16]}'


def build_tester(cfg: Config, checkpoint: str) -> Runner:
    """Build the runner whose ``test()`` evaluates a checkpoint."""
    cfg = deepcopy(cfg)
    cfg.update(load_from=checkpoint, resume=False)
    return build_runner(cfg, ('test',))


def evaluate_grids(runner: Runner, grids: Grids) -> dict[str, float]:
    """Test a model of :func:`build_tester` with a G1 and a G2."""
    runner.model.backbone.set_grids(*grids)
    return {name: float(value) for name, value in runner.test().items()}


@torch.no_grad()
def _costs(
    cfg: Config,
    backbone: HATNet,
    setting: Grids,
    configured: Grids,
    shape: tuple[int, int],
    rounds: int,
) -> dict:
    device = torch.device(get_device())
    channels = backbone.stem[0].in_channels
    image = torch.rand(1, channels, *shape, device=device)

    def step(grids: Grids = setting) -> None:
        backbone.set_grids(*grids)
        backbone(image)

    steps = dict(configured=lambda: step(configured), setting=step)
    seconds = time_in_turns(steps, rounds, device)
    if setting == configured:
        seconds['setting'] = seconds['configured']
    ratios = [*map(truediv, seconds['setting'], seconds['configured'])]
    costs = dict(
        operations=count_operations(cfg, setting, shape),
        latency=median(seconds['setting']),
        latency_ratio=median(ratios),
        latency_ratio_min=min(ratios),
        latency_ratio_max=max(ratios),
    )
    memory = peak_memory(step, device)
    return costs if memory is None else costs | dict(memory=memory)


def metrics_of(row: dict) -> dict[str, float]:
    """Metrics of a row, by name; empty without a checkpoint."""
    return {name: row[name] for name in row if name not in COLUMNS}


def main_metric(cfg: Config, rows: Sequence[dict]) -> str | None:
    """Find the metric that selects a config's best checkpoint.

    Where the config has none or 'auto', it is the first metric of the rows, as
    in mmengine. It is None if nothing was evaluated.
    """
    metrics = metrics_of(rows[0])
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    best = hook.get('save_best')
    return best if best in metrics else next(iter(metrics), None)


def setting_of(row: dict) -> Grids:
    """G1 and G2 of a row."""
    return row['G1'], row['G2']


def shape_of(row: dict) -> tuple[int, int]:
    """Height and width of a row."""
    return row['height'], row['width']


def name_sizes(sizes: Sequence[Ratio]) -> str:
    """Write G1 or G2 without brackets, such as '8, 8, 8'."""
    return ', '.join(map(str, sizes))
