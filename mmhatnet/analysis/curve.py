"""The curve of an exported file: metric and time of sizes, G1 and G2.

``tools/deployment/measure_curve.py`` is a command over this module.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from mmengine.config import Config, ConfigDict
from tqdm import tqdm

from ..engine.checks import iter_datasets
from ..engine.provenance import describe_machine
from ..models.archs import Grids
from ..runtime import OnnxModel
from ..runtime.budget import prepare_photo, scale_steps, time_photo
from .complexity import count_operations
from .sweep import main_metric
from .timing import peak_memory

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TURNS = 9  # in which each setting is timed once


def measure_curve(
    cfg: Config,
    path: Path,
    grids: Sequence[Grids],
    factors: Sequence[float],
    evaluate: Callable[[Config, OnnxModel], dict[str, float]],
) -> dict:
    """Measure an exported file with several sizes of images, G1 and G2.

    The metric is the one that selects the best checkpoint of the config, or
    the first, on its test data, whose images are resized by each factor. The
    time is that of the graph for an image of 640x480 pixels after the steps in
    the file; the settings take turns. Ctrl-C ends the evaluations, and what
    was measured is returned.

    Args:
        cfg (Config): The config of the file, with a ``work_dir``.
        path (Path): The ONNX file; with several settings, one whose G1 and G2
            are inputs.
        grids (Sequence[Grids]): Pairs of G1 and G2; None instead of either
            means that of the file.
        factors (Sequence[float]): Of the sizes in the file, such as 0.5.
        evaluate (Callable): Gets a config and the file, and tests it.

    Returns:
        dict: ``metric``, ``machine``, and ``rows`` of ``G1``, ``G2``,
        ``factor``, ``metric``, ``ms``, ``operations``
        (multiply-accumulates), and ``memory`` (the peak, in bytes) on a CPU
        where it can be measured.

    Raises:
        FileNotFoundError: If the data or the file do not exist.
        ValueError: If the file does not fit, or an image becomes too small.
    """
    import onnxruntime

    model = OnnxModel(path)
    whole = model.metadata['steps']
    rows: list[dict] = []
    metric: Any = None
    if not model.has_free_grids and {*grids} != {(None, None)}:
        raise ValueError(f'{path} has fixed G1 and G2: export --free-grids')

    def choose(
        factor: float, g1: Sequence | None, g2: Sequence | None
    ) -> None:
        model.metadata['steps'] = scale_steps(whole, factor)
        if g1 or g2:
            model.set_grids(g1, g2)

    todo = [(factor, *pair) for factor in factors for pair in grids]
    for setting in tqdm(todo, desc='evaluating', unit='setting'):
        choose(*setting)
        try:
            found = evaluate(scale_tests(cfg, setting[0]), model)
        except KeyboardInterrupt:
            if not rows:
                raise
            break
        metric = main_metric(cfg, [found])
        g1, g2 = (list(model.metadata[name]) for name in ('G1', 'G2'))
        row = dict(G1=g1, G2=g2, factor=setting[0], metric=found[metric])
        rows.append(row)
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(TURNS):  # a busy machine then slows all of them
        for setting, milliseconds in zip(todo, times, strict=False):
            choose(*setting)
            milliseconds.append(time_photo(model, rounds=1))
    on_gpu = model.session.get_providers()[0].startswith('CUDA')
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # which keeps what was used once
    session = onnxruntime.InferenceSession(path, options)
    for row, setting, milliseconds in zip(rows, todo, times, strict=False):
        choose(*setting)
        row['ms'] = round(median(milliseconds), 3)
        shape, pair = prepare_photo(model).shape[2:], (row['G1'], row['G2'])
        row['operations'] = count_operations(cfg, pair, shape)
        if not on_gpu and (peak := _peak(session, model)) is not None:
            row['memory'] = peak
    machine = describe_machine('cuda' if on_gpu else 'cpu')
    return dict(metric=metric, machine=machine, rows=rows)


def _peak(session: 'InferenceSession', model: OnnxModel) -> int | None:
    """The peak memory of the graph for one photo, in bytes."""
    inputs = model.make_inputs(prepare_photo(model))
    session.run(None, inputs)
    return peak_memory(lambda: session.run(None, inputs))


def scale_tests(cfg: Config, factor: float) -> Config:
    """Copy a config whose test pipeline resizes images by one more factor."""
    cfg = copy.deepcopy(cfg)
    if factor == 1:
        return cfg
    for dataset in iter_datasets(cfg.test_dataloader.dataset):
        resized = {'scale', 'scale_factor'}
        if not any(resized & {*step} for step in dataset.pipeline):
            step = dict(type='Resize', scale_factor=1.0, keep_ratio=True)
            dataset.pipeline.insert(1, ConfigDict(step))
        for step in dataset.pipeline:
            if 'scale_factor' in step:
                step.scale_factor *= factor
            sizes = {k: step[k] for k in ('scale', 'crop_size') if k in step}
            for key, value in sizes.items():
                (scaled,) = scale_steps([dict(scale=value)], factor)
                size = scaled['scale']
                step[key] = tuple(size) if isinstance(size, list) else size
    return cfg


def draw_curve(curve: dict) -> Figure:
    """Draw the metric against the time, a line for each G1 and G2."""
    figure = Figure((7, 4.2), layout='constrained', dpi=120)
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in curve['rows']:
        g1, g2 = (', '.join(map(str, row[name])) for name in ('G1', 'G2'))
        point = row['ms'], row['metric']
        lines.setdefault(f'G1 {g1}; G2 {g2}', []).append(point)
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), 'o-', label=label)
    axes.set(xlabel='time of the graph (ms)', ylabel=curve['metric'])
    axes.grid(alpha=0.3)
    figure.legend(loc='outside right upper', fontsize=8)
    return figure
