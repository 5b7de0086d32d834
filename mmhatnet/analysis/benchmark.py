"""Measure models and their forms alternately: time, memory, operations.

``tools/analysis_tools/benchmark.py`` is a command over this module.
"""

import logging
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from ..apis.zoo import load_backbone_config, load_model_config
from ..datasets.random_batch import make_batch
from ..engine.provenance import describe_machine
from ..models.compiling import capture_cuda_graph, compile_blocks
from .complexity import image_channels, measure_complexity
from .report import markdown_table, read_csv, show_ratios, write_csv
from .timing import peak_memory, time_once

FORMS = {
    'plain': 'the equations as they stand in the paper (fast=False)',
    'eager': 'the model as its config describes it',
    'compile': 'torch.compile, with constant weights in inference (freezing)',
    'compile_blocks': 'one compiled block for each stage (compile_blocks)',
    'cuda_graph': 'a recorded CUDA graph',
    'with_cp': 'the blocks recomputed in the backward pass',
}
SETTINGS = dict(plain=dict(fast=False), with_cp=dict(with_cp=True))
# Shares of the time, and names of their operators; the first that fits counts.
KINDS = dict(attention='bmm|softmax|scaled', layers='conv|mm|linear', rest='')

# Environment variables for glibc: keep 256 MiB of freed memory for reuse ...
KEEP_FREED = dict(
    MALLOC_TRIM_THRESHOLD_='268435456', MALLOC_MMAP_THRESHOLD_='33554432'
)
# ... or return it at once, because reused memory does not raise a peak.
RETURN_FREED = dict(GLIBC_TUNABLES='glibc.malloc.mmap_threshold=1048576')

# The function that a measuring process times; each process sets its own.
_step: Callable[[], Any]


class Entry(NamedTuple):
    """The name or config file of a model, and one of FORMS."""

    model: str
    form: str = 'eager'

    @property
    def name(self) -> str:
        """The model without library, folders and suffix."""
        return Path(self.model.rpartition('::')[2]).stem

    @classmethod
    def of(cls, row: Mapping) -> 'Entry':
        """Return the model that a row of a table measures."""
        return cls(row['model'], row['form'])


# The peak of the device; it takes turns with the models.
PRODUCT = Entry('matrix product')


@dataclass(frozen=True)
class Case:
    """Models to measure alternately, and how.

    Attributes:
        entries (tuple[Entry, ...]): The models; the first is the base.
        shape (tuple[int, int]): Height and width of the images in pixels.
        batch (int): Number of images. Defaults to 1.
        train (bool): Measure forward and backward instead of inference.
        device (str): The device. Defaults to 'cpu'.
        amp (str, optional): Type for autocast, 'bfloat16' or 'float16'.
        whole_model (bool): Predict with the whole model, eager or plain,
            instead of its backbone's features.
        keep_memory (bool): Let the allocator of the CPU keep freed memory.
    """

    entries: tuple[Entry, ...]
    shape: tuple[int, int]
    batch: int = 1
    train: bool = False
    device: str = 'cpu'
    amp: str | None = None
    whole_model: bool = False
    keep_memory: bool = False

    def __str__(self) -> str:
        parts = [
            'training step' if self.train else 'inference',
            f'{self.shape[0]}x{self.shape[1]} (H x W)',
            f'batch {self.batch}',
            self.amp,
            'whole models' if self.whole_model else None,
            'freed memory kept' if self.keep_memory else None,
        ]
        return ', '.join(filter(None, parts))

    @property
    def on_cpu(self) -> bool:
        """Whether the device is a CPU."""
        return self.device.startswith('cpu')

    @property
    def product_side(self) -> int:
        """Rows and columns of the matrices of PRODUCT."""
        return 2048 if self.on_cpu else 8192


def _load_config(entry: Entry, case: Case) -> Config:
    """Config whose ``model`` is what is measured, without weights."""
    cfg = load_model_config(entry.model)
    backbone = load_backbone_config(entry.model)
    backbone.update(init_cfg=None, **SETTINGS.get(entry.form, {}))
    if not case.whole_model:
        cfg.model = backbone
        return cfg
    cfg.model.backbone = backbone
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor', {}))
    return cfg


def _build_model(entry: Entry, case: Case) -> nn.Module:
    cfg = _load_config(entry, case)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(cfg.model)
        if case.whole_model:
            model.init_weights()  # detectors would find boxes everywhere
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0  # it would drop other paths in each form
    if entry.form == 'compile_blocks':
        compile_blocks(model)
    model.train(case.train)  # mm's backbones do not return themselves
    return revert_sync_batchnorm(model).to(case.device)


def _build_forward(entry: Entry, case: Case, model: nn.Module) -> Callable:
    """Function that computes features, or predicts as mm's test does."""
    cfg = _load_config(entry, case)
    if case.whole_model:
        batch = make_batch(cfg.default_scope, case.shape, case.batch)
        return partial(model.test_step, batch)
    image = torch.rand(case.batch, image_channels(cfg), *case.shape)
    image = image.to(case.device)
    forward = torch.compile(model) if entry.form == 'compile' else model
    return partial(forward, image)


def _build_step(entry: Entry, case: Case) -> Callable[[], Sequence[Tensor]]:
    """Make the function to measure, with the same weights for all forms.

    It returns the features, and nothing of a whole model.
    """
    torch.manual_seed(0)
    if entry == PRODUCT:
        return _build_product(case)
    model = _build_model(entry, case)
    forward = _build_forward(entry, case, model)
    dtype = getattr(torch, case.amp or 'bfloat16')

    def step() -> Sequence[Tensor]:
        with torch.set_grad_enabled(case.train):
            device = torch.device(case.device).type
            with torch.autocast(device, dtype, enabled=bool(case.amp)):
                outs = forward()
            if case.train:
                model.zero_grad()
                sum(out.float().mean() for out in outs).backward()
            return () if case.whole_model else outs

    if entry.form == 'compile' and not case.train:
        from torch._inductor import config as inductor

        # With constant weights, the convolutions of a CPU are fused with the
        # operations after them. As an option of torch.compile, the setting
        # would come after the tracing. The first call compiles.
        with inductor.patch(freezing=True):
            step()
    if entry.form == 'cuda_graph':
        return capture_cuda_graph(step, case.device)
    return step


def _build_product(case: Case) -> Callable[[], Sequence[Tensor]]:
    # TF32, which is the default for convolutions of float32 on GPUs.
    torch.set_float32_matmul_precision('highest' if case.on_cpu else 'high')
    dtype, side = getattr(torch, case.amp or 'float32'), case.product_side
    a, b = torch.rand(2, side, side, device=case.device).to(dtype)
    return lambda: [a @ b]


def measure_cases(
    cases: Iterable[Case], path: str | os.PathLike, rounds: int = 7
) -> dict[str, list[dict]]:
    """Measure cases, and add the rows of each to a table.

    Each model has a process of its own, as the memory that others leave to the
    allocator would change its time. All take turns. A case is measured again
    only if its entries, the rounds or the machine are different.

    Args:
        cases (Iterable[Case]): The cases.
        path (str | PathLike): The table, a .csv file; created if needed.
        rounds (int): Number of timed rounds. Defaults to 7.

    Returns:
        dict[str, list[dict]]: All rows of the table by case, each with the
        ``seconds`` of every round and until the first result (``start``),
        ``operations`` and, where known, peak ``memory`` in bytes and the
        shares of the CPU time (KINDS).

    Raises:
        AssertionError: If two forms of a model compute different features.
        ValueError: If the file is another table.
    """
    rows: dict[str, list[dict]] = {}
    for row in read_csv(path):
        if not {'case', 'model', 'form', 'seconds'} <= set(row):
            raise ValueError(
                f'{path} is not a table of this command: name another file'
            )
        rows.setdefault(row['case'], []).append(row)
    for case in tqdm(cases, unit='case'):
        machine = describe_machine(case.device)
        found = [
            (Entry.of(row), len(row['seconds']), row['machine'])
            for row in rows.get(str(case), [])
        ]
        if found != [(e, rounds, machine) for e in (*case.entries, PRODUCT)]:
            rows[str(case)] = _measure_case(case, rounds)
            write_csv(path, sum(rows.values(), []))
    return rows


def _measure_case(case: Case, rounds: int) -> list[dict]:
    rows = {e: _start_row(e, case) for e in (*case.entries, PRODUCT)}
    # Else the time of compiling would depend on earlier runs.
    environment = dict(TORCHINDUCTOR_FORCE_DISABLE_CACHES='1')
    if case.keep_memory:
        environment |= KEEP_FREED
    with ExitStack() as stack:
        runs = {entry: _start_process(environment, stack) for entry in rows}
        for entry, run in runs.items():
            rows[entry]['start'] = round(run(_prepare, entry, case), 2)
        features = {e: runs[e](_compute_features) for e in case.entries}
        # Autocast and TF32 keep 8 to 11 bits of a number.
        _check_features(features, 0.1 if case.amp or not case.on_cpu else 1e-3)
        for _ in range(rounds):
            for entry, run in runs.items():
                seconds = run(_time_step, case.device)
                rows[entry]['seconds'] += (round(seconds, 7),)
        for entry in case.entries if case.on_cpu else ():
            rows[entry] |= runs[entry](_profile_step)
    for entry in case.entries:
        # The peak is the same with kept memory, and a CUDA graph has its own.
        if case.keep_memory or entry.form == 'cuda_graph':
            continue
        with ExitStack() as stack:
            run = _start_process(RETURN_FREED, stack)
            memory = run(_measure_peak, entry, case)
            if memory is not None:
                rows[entry]['memory'] = memory
    return list(rows.values())


def _start_row(entry: Entry, case: Case) -> dict[str, Any]:
    row: dict[str, Any] = dict(
        case=str(case),
        model=entry.model,
        form=entry.form,
        batch=case.batch,
        operations=case.product_side**3,
        machine=describe_machine(case.device),
        seconds=(),
    )
    if entry != PRODUCT:
        counted = measure_complexity(_load_config(entry, case), case.shape)
        # The backward pass has two products for each of the forward pass.
        times = case.batch * (3 if case.train else 1)
        row['operations'] = times * counted.operations
        row['products'] = times * counted.products
    return row


def _check_features(
    features: Mapping[Entry, Sequence[np.ndarray]], tolerance: float
) -> None:
    """Raise AssertionError if two forms of a model differ."""
    expected: dict[str, Sequence[np.ndarray]] = {}
    for entry, outs in features.items():
        first = expected.setdefault(entry.model, outs)
        torch.testing.assert_close(outs, first, rtol=tolerance, atol=tolerance)


def _start_process(
    environment: Mapping[str, str], stack: ExitStack
) -> Callable:
    """Start a process until the end of a stack, to run functions in it."""
    context = multiprocessing.get_context('spawn')
    # mm logs the initialization of each weight of a model.
    pool = ProcessPoolExecutor(1, context, logging.disable, (logging.INFO,))
    stack.enter_context(pool)
    before = dict(os.environ)
    os.environ.update(environment)  # malloc reads it when a process starts
    try:
        pool.submit(int)  # the first task starts the process
    finally:
        os.environ.clear()
        os.environ.update(before)
    return lambda *task: pool.submit(*task).result()


def _prepare(entry: Entry, case: Case) -> float:
    """Build and call the function to measure: seconds until it is ready."""
    global _step
    start = time.perf_counter()
    _step = _build_step(entry, case)
    _step()
    return time.perf_counter() - start


def _compute_features() -> list[np.ndarray]:
    return [out.detach().float().cpu().numpy() for out in _step()]


def _time_step(device: str) -> float:
    # The first step of a turn is slower: while the process waited, others
    # filled the caches, and the system took memory away.
    _step()
    return time_once(_step, device)


def _measure_peak(entry: Entry, case: Case) -> int | None:
    _prepare(entry, case)
    _step()  # memory still grows
    return peak_memory(_step, case.device)


def _profile_step() -> dict[str, float]:
    """Shares of the CPU time for layers, attention and the rest."""
    times = dict.fromkeys(KINDS, 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            _step()
    for event in found.key_averages():
        kind = next(k for k, p in KINDS.items() if re.search(p, event.key))
        times[kind] += event.self_cpu_time_total
    return {kind: time / sum(times.values()) for kind, time in times.items()}


def compare(
    rows: Sequence[Mapping], entry: Entry, base: Entry, column: str
) -> str:
    """Compare two rows of a case: an entry with a base, such as PRODUCT.

    Args:
        rows (Sequence[Mapping]): The rows of the case.
        entry (Entry): The model and its form.
        base (Entry): The entry to compare with.
        column (str): 'speed', 'memory', or 'rate' of operations.

    Returns:
        str: The median of the ratios of each round, with the smallest and the
        largest if they differ. Memory has one ratio, empty if it is unknown.
    """
    found = {Entry.of(row): row for row in rows}
    row, other = found[entry], found[base]
    if column == 'memory':
        known = 'memory' in row and 'memory' in other
        return f'{row["memory"] / other["memory"]:.2f}' if known else ''
    times = 1.0
    if column == 'rate':
        times = row['operations'] / other['operations']
    pairs = zip(other['seconds'], row['seconds'], strict=True)
    return show_ratios([times * x / y for x, y in pairs])


def make_table(rows: Sequence[Mapping]) -> str:
    """Make the table of a case in Markdown, with ratios to the first row."""
    first, cells = Entry.of(rows[0]), []
    for row in rows:
        entry, seconds = Entry.of(row), median(row['seconds'])
        if entry == PRODUCT:
            continue
        cell = {
            'model': f'`{entry.name}`',
            'form': entry.form,
            'time (s)': f'{seconds:.3f}',
            'images/s': f'{row["batch"] / seconds:.2f}',
            'speed': compare(rows, entry, first, 'speed'),
            'operations (G)': f'{row["operations"] / 1e9:.1f}',
            'of the peak': compare(rows, entry, PRODUCT, 'rate'),
        }
        if 'memory' in row:
            cell['memory (MiB)'] = f'{row["memory"] / 2**20:.0f}'
            cell['memory'] = compare(rows, entry, first, 'memory')
        if 'start' in row:
            cell['start (s)'] = f'{row["start"]:.0f}'
        for kind in KINDS:
            if kind in row:
                cell[kind] = f'{row[kind]:.0%}'
        cells.append(cell)
    return markdown_table(cells)
