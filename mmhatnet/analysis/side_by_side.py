"""Measure backbones side by side: time, memory and share of the peak.

``tools/analysis_tools/benchmark.py`` is a command over this module.
"""

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from ..models import HATNet
from ..models.compiling import compile_blocks
from ..zoo import load_backbone_config
from .complexity import Complexity, measure_complexity
from .report import read_csv, write_csv
from .timing import describe_machine, peak_memory, time_once

FORMS = ('plain', 'compile', 'compile_blocks', 'channels_last', 'with_cp')
COMPILED = {'compile', 'compile_blocks'}
PRODUCT = 'matrix product'
# Untimed steps at the start, while memory grows.
WARMUP = 2
# Convolutions and linear layers; products of activations and the softmax.
LAYERS, ATTENTION, REST = 'layers', 'attention', 'rest'

# Environment variables for glibc: keep 256 MiB of freed memory for reuse ...
KEEP_FREED = dict(
    MALLOC_TRIM_THRESHOLD_='268435456', MALLOC_MMAP_THRESHOLD_='33554432'
)
# ... or return it at once, because reused memory does not raise a peak.
RETURN_FREED = dict(GLIBC_TUNABLES='glibc.malloc.mmap_threshold=1048576')

# The function that a measuring process times; each process sets its own.
_step: Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Backbones to measure in turns, and how.

    Attributes:
        backbones (tuple[str, ...]): Names of models or config files, each
            with any of FORMS in front (``plain:NAME``). All are compared with
            the first.
        shape (tuple[int, int]): Height and width of the images in pixels.
        batch (int): Number of images.
        train (bool): Measure forward and backward instead of inference.
            Defaults to False.
        dtype (str): Other types than 'float32' use autocast. Defaults to
            'float32'.
        keep_memory (bool): Let the allocator of the CPU keep freed memory.
            Defaults to False, the allocator as it comes.
    """

    backbones: tuple[str, ...]
    shape: tuple[int, int]
    batch: int
    train: bool = False
    dtype: str = 'float32'
    keep_memory: bool = False

    def __str__(self) -> str:
        parts = [
            'training step' if self.train else 'inference',
            f'{self.shape[0]}x{self.shape[1]} (H x W)',
            f'batch {self.batch}',
        ]
        if self.dtype != 'float32':
            parts.append(self.dtype)
        if self.keep_memory:
            parts.append('freed memory kept')
        return ', '.join(parts)


def split_forms(backbone: str) -> tuple[list[str], str]:
    """Split a backbone of a case.

    Args:
        backbone (str): For example ``plain:hatnet-tiny_8xb128_in1k``.

    Returns:
        tuple[list[str], str]: The forms, and the model or config file.
    """
    forms = []
    while (parts := backbone.partition(':'))[0] in FORMS:
        forms.append(parts[0])
        backbone = parts[2]
    return forms, backbone


def measure_cases(
    cases: Iterable[Case],
    path: str | os.PathLike,
    device: str = 'cpu',
    rounds: int = 7,
) -> dict[str, list[dict]]:
    """Measure cases, and add the rows of each to a table.

    A case of the table is not measured again, unless its backbones, the
    number of rounds or the machine are different.

    Args:
        cases (Iterable[Case]): The cases.
        path (str | PathLike): The table, a .csv file; created if needed.
        device (str): The device. Defaults to 'cpu'.
        rounds (int): Number of timed rounds. Defaults to 7.

    Returns:
        dict[str, list[dict]]: All rows of the table by case.

    Raises:
        AssertionError: If two forms of a backbone compute different features.
        FileNotFoundError: If a config file does not exist.
        ValueError: If a name is unknown or has no such form.
    """
    rows = rows_by_case(path)
    for case in tqdm(cases, unit='case'):
        found = [
            (row['backbone'], len(row['seconds']), row['machine'])
            for row in rows.get(str(case), [])
        ]
        if found != [
            (backbone, rounds, describe_machine(device))
            for backbone in (*case.backbones, PRODUCT)
        ]:
            rows[str(case)] = measure_case(case, device, rounds)
            write_csv(path, sum(rows.values(), []))
    return rows


def rows_by_case(path: str | os.PathLike) -> dict[str, list[dict]]:
    """Read a table of :func:`measure_cases`.

    Args:
        path (str | PathLike): The table, a .csv file.

    Returns:
        dict[str, list[dict]]: The rows by case; empty without a file.
    """
    rows = {}
    for row in read_csv(path):
        rows.setdefault(row['case'], []).append(row)
    return rows


def measure_case(
    case: Case, device: str = 'cpu', rounds: int = 7
) -> list[dict]:
    """Measure the backbones of a case, and a matrix product as the peak.

    Each of them has a process of its own, because in a common process its
    time would depend on the memory that the others leave to the allocator.
    All processes exist at the same time and take turns.

    Args:
        case (Case): The case.
        device (str): The device. Defaults to 'cpu'.
        rounds (int): Number of timed rounds. Defaults to 7.

    Returns:
        list[dict]: One row for each backbone and one for PRODUCT, with the
        ``seconds`` of every round, ``operations``, the seconds until a
        compiled one has its first features (``start``) and, where they can be
        measured, peak ``memory`` in bytes and the shares of the CPU time.

    Raises:
        AssertionError: If two forms of a backbone compute different features.
        FileNotFoundError: If a config file does not exist.
        ValueError: If a name is unknown or has no such form.
    """
    on_cpu = torch.device(device).type == 'cpu'
    for backbone in case.backbones:
        _read_config(backbone)  # raises before anything is measured
    builds = {b: (_build_step, b, case, device) for b in case.backbones}
    builds[PRODUCT] = (_build_product, case, device)
    rows = {
        name: dict(
            case=str(case),
            backbone=name,
            batch=case.batch,
            operations=_product_side(device) ** 3,
            machine=describe_machine(device),
            seconds=(),
        )
        for name in builds
    }
    with ExitStack() as stack:
        # Else the time of compiling would depend on earlier runs.
        environment = dict(TORCHINDUCTOR_FORCE_DISABLE_CACHES='1')
        if case.keep_memory:
            environment |= KEEP_FREED
        workers = {
            name: stack.enter_context(_start_process(environment))
            for name in builds
        }
        for name, worker in workers.items():
            seconds = worker.submit(_prepare, *builds[name]).result()
            if COMPILED & set(split_forms(name)[0]):
                rows[name]['start'] = round(seconds, 2)
        _check_forms(
            {
                backbone: workers[backbone].submit(_compute_features).result()
                for backbone in case.backbones
            },
            # Autocast and TF32 keep 8 to 11 bits of a number.
            1e-3 if on_cpu and case.dtype == 'float32' else 0.1,
        )
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds = worker.submit(_time_step, device).result()
                rows[name]['seconds'] += (round(seconds, 5),)
        for backbone in case.backbones if on_cpu else ():
            rows[backbone] |= workers[backbone].submit(_profile_step).result()
    with ExitStack() as stack:
        workers = {
            backbone: stack.enter_context(_start_process(RETURN_FREED))
            for backbone in case.backbones
            if not case.keep_memory  # the peak is the same with it
        }
        for backbone, worker in workers.items():
            args = backbone, case, device
            memory = worker.submit(_measure_peak, *args).result()
            if memory is not None:
                rows[backbone]['memory'] = memory
    for backbone in case.backbones:
        counted = _count(split_forms(backbone)[1], case.shape)
        # The backward pass has two products for each of the forward pass.
        times = case.batch * (3 if case.train else 1)
        rows[backbone]['operations'] = times * counted.operations
        rows[backbone]['products'] = times * counted.products
    return list(rows.values())


def _check_forms(
    features: Mapping[str, Sequence[np.ndarray]], tolerance: float
) -> None:
    """Raise AssertionError if two forms of a backbone differ."""
    expected = {}
    for backbone, outs in features.items():
        first = expected.setdefault(split_forms(backbone)[1], outs)
        for a, b in zip(outs, first, strict=True):
            np.testing.assert_allclose(
                a, b, tolerance, tolerance, err_msg=backbone
            )


def _read_config(backbone: str) -> ConfigDict:
    """Config of a backbone in its form, with random weights."""
    forms, name = split_forms(backbone)
    cfg = load_backbone_config(name)
    cfg.init_cfg = None
    for form in forms:
        if form in ('plain', 'compile_blocks') and (
            MODELS.get(cfg.type) is not HATNet
        ):
            raise ValueError(f'{form}: is a form of HATNet, not of {name}')
    if 'plain' in forms:
        cfg.fast = False
    if 'with_cp' in forms:
        cfg.with_cp = True
    return cfg


@cache
def _count(name: str, shape: tuple[int, int]) -> Complexity:
    return measure_complexity(Config(dict(model=_read_config(name))), shape)


def _build_step(
    backbone: str, case: Case, device: str
) -> Callable[[], tuple[Tensor, ...]]:
    """Function that computes features; in training also the gradients.

    All forms of a backbone have the same weights and images.
    """
    forms, _ = split_forms(backbone)
    torch.manual_seed(0)
    cfg = _read_config(backbone)
    model = MODELS.build(cfg).to(device)
    model.train(case.train)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.eval()  # it would drop other paths in each form
    channels = cfg.get('in_channels', 3)
    image = torch.rand(case.batch, channels, *case.shape, device=device)
    if 'channels_last' in forms:
        model.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(model) if 'compile' in forms else model
    if 'compile_blocks' in forms:
        compile_blocks(model)
    autocast = nullcontext()
    if case.dtype != 'float32':
        dtype = getattr(torch, case.dtype)
        autocast = torch.autocast(torch.device(device).type, dtype)

    def step() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(case.train):
            with autocast:
                outs = forward(image)
            if case.train:
                model.zero_grad()
                sum(out.float().mean() for out in outs).backward()
            return outs

    if 'compile' in forms and not case.train:
        from torch._inductor import config as inductor

        # With constant weights, the convolutions of a CPU are fused with the
        # operations after them. As an option of torch.compile, the setting
        # would come after the tracing. The first call compiles.
        with inductor.patch(freezing=True):
            step()
    return step


def _product_side(device: str) -> int:
    return 2048 if torch.device(device).type == 'cpu' else 8192


def _build_product(case: Case, device: str) -> Callable[[], Tensor]:
    """Function that computes the matrix product."""
    if torch.device(device).type == 'cuda':
        # TF32, which is the default for convolutions of float32 on GPUs.
        torch.set_float32_matmul_precision('high')
    dtype, side = getattr(torch, case.dtype), _product_side(device)
    a, b = torch.rand(2, side, side, device=device).to(dtype)
    return lambda: a @ b


def _start_process(environment: Mapping[str, str]) -> ProcessPoolExecutor:
    """Start one new process; malloc reads its variables at the start."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        pool.submit(int)  # the first task starts the process
    finally:
        for name in environment:
            del os.environ[name]
        os.environ.update(before)
    return pool


def _prepare(build: Callable[..., Callable], *args: object) -> float:
    """Build and call the function to measure: seconds until it is ready."""
    global _step
    start = time.perf_counter()
    _step = build(*args)
    _step()
    return time.perf_counter() - start


def _compute_features() -> list[np.ndarray]:
    return [out.detach().float().cpu().numpy() for out in _step()]


def _time_step(device: str) -> float:
    # The first step of a turn is slower: while the process waited, others
    # filled the caches, and the system took memory away.
    _step()
    return time_once(_step, device)


def _profile_step() -> dict[str, float]:
    """Shares of the CPU time for layers, attention and the rest."""
    times = dict.fromkeys((LAYERS, ATTENTION, REST), 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            _step()
    for event in found.key_averages():
        kind = REST
        if re.search('bmm|softmax|scaled_dot_product', event.key):
            kind = ATTENTION
        elif re.search('conv|mm|linear', event.key):
            kind = LAYERS
        times[kind] += event.self_cpu_time_total
    return {kind: time / sum(times.values()) for kind, time in times.items()}


def _measure_peak(backbone: str, case: Case, device: str) -> int | None:
    step = _build_step(backbone, case, device)
    for _ in range(WARMUP):
        step()
    return peak_memory(step, device)
