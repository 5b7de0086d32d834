"""Measure a trained model under many settings of G1 and G2.

``tools/analysis_tools/sweep_grids.py`` is a command over this module.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import cycle
from operator import truediv
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn
from tqdm import tqdm

from ..apis.zoo import load_backbone_config
from ..engine.provenance import describe_machine
from ..engine.runner import build_runner
from ..models import HATNet
from ..models.archs import Ratio
from ..utils.hashes import sha256_of
from ..weights.releases import locate_weights
from .complexity import measure_complexity
from .report import markdown_table, read_csv, write_csv
from .timing import peak_memory, time_in_turns

# G1 and G2 of the stages 0 to 2.
Grids = tuple[tuple[int, ...], tuple[Ratio, ...]]

# Column, its label in a figure, and the unit there.
COSTS = dict(
    operations=('multiply-accumulates of the model (G)', 1e9),
    latency_ratio=('time of the backbone, configured = 1', 1),
    memory=('peak memory of the backbone (MiB)', 2**20),
)
# All other columns are metrics.
COLUMNS = {
    *('G1', 'G2', 'configured', 'height', 'width'),
    *('latency', 'machine', 'fingerprint', *COSTS),
    *('corruption', 'scale'),
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

    Each setting is evaluated on the test data, and its operations are
    counted. Time and memory of the backbone are measured with one image of
    each shape. A setting takes turns with the configured one, so that the
    ratio of their times holds on a busy machine. Rows are saved after each
    setting; a second call continues where the first one stopped.

    Args:
        cfg (Config): The config of a model with a HATNet; it needs a
            ``work_dir`` for the logs if there is a checkpoint.
        grids (Sequence[Grids]): The settings, pairs of G1 and G2. None
            instead of either means the configured value. The configured
            setting is added.
        shapes (Sequence[tuple[int, int]]): Heights and widths in pixels.
        out_dir (str | PathLike): Folder for ``grids.csv``.
        checkpoint (str, optional): A file, URL or ``hatnet://NAME``. Defaults
            to None: only the costs are measured, and no data are needed.
        rounds (int): Repetitions of every measurement of time. Defaults to
            10.

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
    machine = describe_machine(_device(backbone))
    if any(row['machine'] != machine for row in rows):
        raise ValueError(
            f'{path} has times of another machine, {rows[0]["machine"]}: '
            'delete it, or choose another place'
        )
    runner = None
    for setting in tqdm(grids, unit='setting'):
        done = [row for row in rows if setting_of(row) == setting]
        todo = [
            shape
            for shape in shapes
            if shape not in {(row['height'], row['width']) for row in done}
        ]
        if not todo:
            continue
        metrics = metrics_of(done[0]) if done else {}
        if checkpoint and not done:
            runner = runner or build_tester(cfg, checkpoint)
            runner.model.backbone.set_grids(*setting)
            metrics = {k: float(v) for k, v in runner.test().items()}
        for shape in todo:
            rows.append(
                dict(
                    G1=setting[0],
                    G2=setting[1],
                    configured=setting == configured,
                    height=shape[0],
                    width=shape[1],
                    **_costs(
                        cfg, backbone, setting, configured, shape, rounds
                    ),
                    machine=machine,
                    fingerprint=fingerprint,
                    **metrics,
                )
            )
        write_csv(path, rows)
    return rows


def build_hatnet(cfg: Config) -> HATNet:
    """Build the backbone of a model, with random weights.

    Args:
        cfg (Config): The config of a model.

    Returns:
        HATNet: The backbone.

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


def complete_grids(backbone: HATNet, grids: Sequence[Grids]) -> list[Grids]:
    """Complete settings as a backbone stores them, without duplicates.

    Args:
        backbone (HATNet): The backbone; its setting stays.
        grids (Sequence[Grids]): Pairs of G1 and G2. None instead of either
            means that of the backbone; G2 may be 'auto'.

    Returns:
        list[Grids]: The settings in order.

    Raises:
        ValueError: If one is not valid.
    """
    configured = (backbone.grid_sizes, backbone.ds_ratios)
    complete: dict[Grids, None] = {}
    for setting in grids:
        backbone.set_grids(*setting)
        complete[backbone.grid_sizes, backbone.ds_ratios] = None
        backbone.set_grids(*configured)
    return list(complete)


def read_rows(
    path: str | os.PathLike, cfg: Config, checkpoint: str | None
) -> tuple[list[dict], str]:
    """Read the rows that an interrupted measurement of a model left.

    Args:
        path (str | PathLike): The CSV file; it need not exist.
        cfg (Config): The config.
        checkpoint (str, optional): The checkpoint, if there is one.

    Returns:
        tuple[list[dict], str]: The rows, and the ``fingerprint`` of config and
        checkpoint that each row has.

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
    """Build the runner that evaluates a model on its test data.

    Args:
        cfg (Config): The config, with a ``work_dir``.
        checkpoint (str): A file, URL or ``hatnet://NAME``.

    Returns:
        Runner: The runner; ``test()`` returns the metrics.
    """
    cfg = deepcopy(cfg)
    cfg.load_from = checkpoint
    cfg.resume = False
    return build_runner(cfg, ('test',))


@torch.no_grad()
def _costs(
    cfg: Config,
    backbone: HATNet,
    setting: Grids,
    configured: Grids,
    shape: tuple[int, int],
    rounds: int,
) -> dict:
    cfg = deepcopy(cfg)
    cfg.model.backbone.update(grid_sizes=setting[0], ds_ratios=setting[1])
    device = _device(backbone)
    channels = backbone.stem[0].in_channels
    image = torch.rand(1, channels, *shape, device=device)

    def step(grids: Grids = setting) -> None:
        backbone.set_grids(*grids)
        backbone(image)

    steps = dict(configured=lambda: step(configured), setting=step)
    seconds = time_in_turns(steps, rounds, device)
    ratios = map(truediv, seconds['setting'], seconds['configured'])
    costs = dict(
        operations=measure_complexity(cfg, shape).operations,
        latency=median(seconds['setting']),
        latency_ratio=median(ratios) if setting != configured else 1.0,
    )
    memory = peak_memory(step, device)
    return costs if memory is None else costs | dict(memory=memory)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def metrics_of(row: dict) -> dict[str, float]:
    """Get the metrics of a row.

    Args:
        row (dict): A row of :func:`sweep_grids`.

    Returns:
        dict[str, float]: The metrics by name; empty without a checkpoint.
    """
    return {name: row[name] for name in row if name not in COLUMNS}


def main_metric(cfg: Config, rows: Sequence[dict]) -> str | None:
    """Find the metric that selects a config's best checkpoint.

    Args:
        cfg (Config): The config.
        rows (Sequence[dict]): The rows of :func:`sweep_grids`.

    Returns:
        str, optional: The name of the metric. Where the config has none or
        'auto', it is the first metric, as in mmengine. None if nothing was
        evaluated.
    """
    metrics = metrics_of(rows[0])
    best = cfg.get('default_hooks', {}).get('checkpoint', {}).get('save_best')
    return best if best in metrics else next(iter(metrics), None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no other point beats.

    Args:
        points (Sequence[tuple[float, float]]): Cost and metric of each. A
            lower cost and a higher metric are better.

    Returns:
        list[int]: The indices of these points, ordered by cost.
    """
    front: list[int] = []
    for index in sorted(
        range(len(points)), key=lambda i: (points[i][0], -points[i][1])
    ):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def setting_of(row: dict) -> Grids:
    """Get G1 and G2 of a row.

    Args:
        row (dict): A row of :func:`sweep_grids`.

    Returns:
        Grids: The pair.
    """
    return row['G1'], row['G2']


def name_of(row: dict) -> str:
    """Write G1 and G2 of a row, such as '8, 8, 8; 16, 8, 4'.

    Args:
        row (dict): A row of :func:`sweep_grids`.

    Returns:
        str: G1; G2.
    """
    return '; '.join(map(_name, setting_of(row)))


def _name(sizes: Sequence[Ratio]) -> str:
    return ', '.join(map(str, sizes))


def _by_shape(rows: Sequence[dict]) -> Iterator[tuple[str, list[dict]]]:
    for shape in dict.fromkeys((row['height'], row['width']) for row in rows):
        yield (
            f'{shape[0]}x{shape[1]}',
            [row for row in rows if (row['height'], row['width']) == shape],
        )


def plot_sweep(rows: Sequence[dict], metric: str | None) -> Figure:
    """Draw the metric against the costs.

    Args:
        rows (Sequence[dict]): The rows of :func:`sweep_grids`.
        metric (str, optional): The name of the metric. With None, the other
            costs are drawn against the operations.

    Returns:
        Figure: A row of panels for each shape. The colour is G2, the marker
        is G1, and a ring marks the configured setting. A line joins the
        settings of the Pareto front, which have a black edge.
    """
    groups = list(_by_shape(rows))
    costs = [name for name in COSTS if name in rows[0]]
    columns = costs if metric else costs[1:]
    figure = Figure(
        figsize=(5 * len(columns) + 1, 4.2 * len(groups)), layout='constrained'
    )
    panels = figure.subplots(len(groups), len(columns), squeeze=False)
    colours = {g2: f'C{i}' for i, g2 in enumerate({r['G2']: 0 for r in rows})}
    markers = dict(
        zip({r['G1']: 0 for r in rows}, cycle('osD^vP*X<>'), strict=False)
    )
    for (shape, here), line in zip(groups, panels, strict=True):
        for column, axis in zip(columns, line, strict=True):
            x, y = (column, metric) if metric else ('operations', column)
            points = [(_value(row, x), _value(row, y)) for row in here]
            front = pareto_front(points) if metric else []
            axis.plot(
                [points[i][0] for i in front],
                [points[i][1] for i in front],
                'k-',
                lw=0.8,
                zorder=0,
            )
            for index, (row, point) in enumerate(
                zip(here, points, strict=True)
            ):
                axis.plot(
                    *point,
                    markers[row['G1']],
                    color=colours[row['G2']],
                    mec='black' if index in front else 'none',
                )
                if row['configured']:
                    axis.plot(*point, 'ko', ms=13, mfc='none')
            axis.set(
                xlabel=COSTS[x][0],
                ylabel=metric or COSTS[column][0],
                title=shape,
            )
            axis.grid(alpha=0.3)
    legend = panels[0, -1]
    for g2, colour in colours.items():
        legend.plot([], [], 's', color=colour, label=f'G2 {_name(g2)}')
    for g1, marker in markers.items():
        legend.plot([], [], marker, color='gray', label=f'G1 {_name(g1)}')
    legend.plot([], [], 'ko', ms=11, mfc='none', label='configured')
    figure.legend(loc='outside right upper')
    return figure


def _value(row: dict, name: str) -> float:
    if name in COSTS:
        return row[name] / COSTS[name][1]
    return row[name]


def sweep_tables(rows: Sequence[dict], metric: str | None) -> str:
    """Make one Markdown table for each shape.

    Args:
        rows (Sequence[dict]): The rows of :func:`sweep_grids`.
        metric (str, optional): The name of the metric; None leaves it out.

    Returns:
        str: The tables with titles.
    """
    parts = []
    for shape, here in _by_shape(rows):
        shown = []
        for row in here:
            cells = {'G1': _name(row['G1']), 'G2': _name(row['G2'])}
            if metric:
                cells[metric] = f'{row[metric]:.4g}'
            cells['#FLOPs (G)'] = f'{row["operations"] / 1e9:.2f}'
            cells['time (ms)'] = f'{1000 * row["latency"]:.1f}'
            cells['relative'] = f'{row["latency_ratio"]:.2f}'
            if 'memory' in row:
                cells['memory (MiB)'] = f'{row["memory"] / 2**20:.0f}'
            cells[''] = 'configured' if row['configured'] else ''
            shown.append(cells)
        parts.append(f'## {shape}\n\n{markdown_table(shown)}\n')
    return '\n'.join(parts)
