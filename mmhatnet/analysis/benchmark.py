"""Measure backbones and their forms in turns: time, memory, operations.

``tools/analysis_tools/benchmark.py`` is a command over this module.
"""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from tqdm import tqdm

from ..apis.zoo import load_backbone_config, load_model_config
from ..engine.provenance import describe_machine
from ..models.compiling import capture_cuda_graph, compile_blocks
from ..models.graphing import graph_training
from .complexity import image_channels, measure_complexity
from .report import markdown_table, show_ratios
from .timing import peak_memory, time_once

FORMS = {
    'plain': 'the equations as they stand in the paper (fast=False)',
    'eager': 'the model as its config describes it',
    'compile': 'torch.compile, with constant weights in inference (freezing)',
    'compile_blocks': 'a graph of attention and of MLP per stage',
    'cuda_graph': 'recorded CUDA graphs',
    'with_cp': 'the blocks recomputed in the backward pass',
}
SETTINGS = dict(plain=dict(fast=False), with_cp=dict(with_cp=True))
# Variables of the measuring processes: compiled models have constant weights
# in inference, and the time of compiling does not depend on earlier runs.
ENVIRONMENT = dict(
    TORCHINDUCTOR_FREEZING='1', TORCHINDUCTOR_FORCE_DISABLE_CACHES='1'
)
# Let glibc return freed memory, because reused memory does not raise a peak.
RETURN_FREED = dict(GLIBC_TUNABLES='glibc.malloc.mmap_threshold=1048576')

# The function that a measuring process times; each process sets its own.
_step: Callable[[], Sequence[Tensor]]


class Entry(NamedTuple):
    """The name or config file of a model, and one of FORMS."""

    model: str
    form: str = 'eager'

    @property
    def name(self) -> str:
        """The model without library, folders and suffix."""
        return Path(self.model.rpartition('::')[2]).stem


@dataclass(frozen=True)
class Case:
    """Backbones to measure in turns, and how."""

    entries: tuple[Entry, ...]
    shape: tuple[int, int]  # height and width of the images in pixels
    batch: int = 1
    train: bool = False  # measure forward and backward
    device: str = 'cpu'
    amp: str | None = None  # type for autocast

    def __str__(self) -> str:
        parts = [
            'training step' if self.train else 'inference',
            f'{self.shape[0]}x{self.shape[1]} (H x W)',
            f'batch {self.batch}',
            self.amp,
        ]
        return ', '.join(filter(None, parts))


def measure(case: Case, rounds: int = 7) -> list[dict[str, Any]]:
    """Measure the backbones of a case in turns.

    Each has a process of its own, as the memory that others leave to the
    allocator would change its time.

    Args:
        case (Case): The case.
        rounds (int): Number of timed rounds. Defaults to 7.

    Returns:
        list[dict]: A row for each entry, with the ``seconds`` of every round
        and until the first result (``start``), the ``operations`` of the batch
        and the peak ``memory`` in bytes, None if it is unknown. On a GPU, the
        eager forms have the seconds of all ``kernels`` of a step.

    Raises:
        AssertionError: If two forms of a model compute different features.
    """
    rows = {entry: _start_row(entry, case) for entry in case.entries}
    with ExitStack() as stack:
        runs = {entry: _start_process(stack) for entry in rows}
        for entry, run in runs.items():
            rows[entry]['start'] = round(run(_prepare, entry, case), 2)
        features = {e: run(_compute_features) for e, run in runs.items()}
        # Autocast and TF32 keep 8 to 11 bits of a number.
        exact = case.device == 'cpu' and not case.amp
        _check_features(features, 1e-3 if exact else 0.1)
        for _ in tqdm(range(rounds), desc=str(case)):
            for entry, run in runs.items():
                seconds = run(_time_step, case.device)
                rows[entry]['seconds'] += (round(seconds, 7),)
        for entry, run in runs.items():
            if entry.form == 'eager' and case.device.startswith('cuda'):
                rows[entry]['kernels'] = round(run(_time_kernels), 7)
    for entry, row in rows.items():
        if entry.form == 'cuda_graph':  # its own pool is not seen
            continue
        with ExitStack() as stack:
            run = _start_process(stack, **RETURN_FREED)
            row['memory'] = run(_measure_peak, entry, case)
    return list(rows.values())


def _start_row(entry: Entry, case: Case) -> dict[str, Any]:
    counted = measure_complexity(_load_config(entry), case.shape)
    # The backward pass has two products for each of the forward pass.
    times = case.batch * (3 if case.train else 1)
    return dict(
        case=str(case),
        model=entry.model,
        form=entry.form,
        batch=case.batch,
        operations=times * counted.operations,
        machine=describe_machine(case.device),
        seconds=(),
    )


def _load_config(entry: Entry) -> Config:
    """Config whose ``model`` is the backbone, without weights."""
    cfg = load_model_config(entry.model)
    cfg.model = load_backbone_config(entry.model)
    cfg.model.update(init_cfg=None, **SETTINGS.get(entry.form, {}))
    return cfg


def _start_process(stack: ExitStack, **variables: str) -> Callable:
    """Start a process until the end of a stack, to run functions in it."""
    context = multiprocessing.get_context('spawn')
    # mm logs the initialization of each weight of a model.
    pool = ProcessPoolExecutor(1, context, logging.disable, (logging.INFO,))
    stack.enter_context(pool)
    # malloc reads them when a process starts, which the first task does.
    with mock.patch.dict(os.environ, ENVIRONMENT | variables):
        pool.submit(int)
    return lambda *task: pool.submit(*task).result()


def _build_model(entry: Entry, case: Case) -> nn.Module:
    cfg = _load_config(entry)
    torch.manual_seed(0)  # the same weights for all forms
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(cfg.model)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0  # it would drop other paths in each form
    if entry.form == 'compile_blocks':
        compile_blocks(model)
    model.train(case.train)  # mm's backbones do not return themselves
    return revert_sync_batchnorm(model).to(case.device)


def _build_step(entry: Entry, case: Case) -> Callable[[], Sequence[Tensor]]:
    """Make the function to measure, which returns the features."""
    model = _build_model(entry, case)
    torch.manual_seed(0)
    channels = image_channels(_load_config(entry))
    images = torch.rand(case.batch, channels, *case.shape).to(case.device)
    forward = torch.compile(model) if entry.form == 'compile' else model
    device = torch.device(case.device).type
    dtype = getattr(torch, case.amp or 'bfloat16')

    def step() -> Sequence[Tensor]:
        with torch.set_grad_enabled(case.train):
            with torch.autocast(device, dtype, enabled=bool(case.amp)):
                outs = forward(images)
            if case.train:
                model.zero_grad()
                sum(out.float().mean() for out in outs).backward()
            return outs

    if entry.form == 'cuda_graph':
        if not case.train:
            return capture_cuda_graph(step, case.device)
        graph_training(model)  # records in the first step
    return step


def _prepare(entry: Entry, case: Case) -> float:
    """Build and call the function to measure: seconds until it is ready."""
    global _step
    start = time.perf_counter()
    _step = _build_step(entry, case)
    _step()
    return time.perf_counter() - start


def _compute_features() -> list[np.ndarray]:
    return [out.detach().float().cpu().numpy() for out in _step()]


def _check_features(
    features: Mapping[Entry, Sequence[np.ndarray]], tolerance: float
) -> None:
    """Raise AssertionError if two forms of a model differ."""
    expected: dict[str, Sequence[np.ndarray]] = {}
    for entry, outs in features.items():
        first = expected.setdefault(entry.model, outs)
        torch.testing.assert_close(outs, first, rtol=tolerance, atol=tolerance)


def _time_step(device: str) -> float:
    # The first step of a turn is slower: while the process waited, others
    # filled the caches, and the system took memory away.
    _step()
    return time_once(_step, device)


def _time_kernels() -> float:
    """Seconds that a GPU computes in a step, without waiting for the host."""
    with torch.profiler.profile() as profile:
        _step()
        torch.cuda.synchronize()
    return 1e-6 * sum(
        event.self_device_time_total
        if hasattr(event, 'self_device_time_total')
        else event.self_cuda_time_total  # its name before torch 2.4
        for event in profile.key_averages()
    )


def _measure_peak(entry: Entry, case: Case) -> int | None:
    _prepare(entry, case)
    _step()  # memory still grows
    return peak_memory(_step, case.device)


def make_table(rows: Sequence[Mapping]) -> str:
    """Make the table of a case in Markdown.

    Speed and memory are relative to the first model in its eager form. Speed
    is the median of the ratios of each round, with the smallest and the
    largest if they differ.
    """
    base = next(row for row in rows if row['form'] == 'eager')
    cells = []
    for row in rows:
        times, memory = row['seconds'], row.get('memory')
        pairs = zip(base['seconds'], times, strict=True)
        cell = {
            'model': f'`{Entry(row["model"]).name}`',
            'form': row['form'],
            'ms per image': f'{1e3 * median(times) / row["batch"]:.4g}',
            'speed': show_ratios([theirs / own for theirs, own in pairs]),
            'operations (G)': f'{row["operations"] / row["batch"] / 1e9:.1f}',
        }
        if memory and base.get('memory'):
            cell['memory (MiB)'] = f'{memory / 2**20:.0f}'
            cell['memory'] = f'{memory / base["memory"]:.2f}'
        if row.get('kernels'):
            spent = 1e3 * row['kernels'] / row['batch']
            cell['kernels (ms per image)'] = f'{spent:.4g}'
        if 'start' in row:
            cell['start (s)'] = f'{row["start"]:.0f}'
        cells.append(cell)
    return markdown_table(cells)
