"""Measure backbones side by side: time, memory and share of the peak.

``tools/analysis_tools/benchmark.py`` is a command over this module.
"""

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from ..engine.provenance import describe_machine
from .forms import (
    COMPILED,
    PRODUCT,
    Case,
    build_step,
    check_form,
    count_operations,
    product_side,
    references,
    split_forms,
    subject_of,
)
from .report import read_csv, write_csv
from .timing import peak_memory, time_once

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
_step: Callable[[], Any]


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
            for backbone in (*case.backbones, *references(device))
        ]:
            rows[str(case)] = measure_case(case, device, rounds)
            write_csv(path, sum(rows.values(), []))
        else:
            tqdm.write(f'{case}: measured before, from {path}')
    return rows


def rows_by_case(path: str | os.PathLike) -> dict[str, list[dict]]:
    """Read a table of :func:`measure_cases`.

    Args:
        path (str | PathLike): The table, a .csv file.

    Returns:
        dict[str, list[dict]]: The rows by case; empty without a file.
    """
    rows: dict[str, list[dict]] = {}
    for row in read_csv(path):
        rows.setdefault(row['case'], []).append(row)
    return rows


def measure_case(
    case: Case, device: str = 'cpu', rounds: int = 7
) -> list[dict]:
    """Measure the backbones of a case, and what the device can do at best.

    Each of them has a process of its own, because in a common process its
    time would depend on the memory that the others leave to the allocator.
    All processes exist at the same time and take turns.

    Args:
        case (Case): The case.
        device (str): The device. Defaults to 'cpu'.
        rounds (int): Number of timed rounds. Defaults to 7.

    Returns:
        list[dict]: One row for each backbone, one for PRODUCT and on GPUs one
        for COPY, with the ``seconds`` of every round, ``operations``, the
        seconds until a compiled one has its first features (``start``) and,
        where they can be measured, peak ``memory`` in bytes and the shares of
        the CPU time.

    Raises:
        AssertionError: If two forms of a backbone compute different features.
        FileNotFoundError: If a config file does not exist.
        ValueError: If a name is unknown or has no such form.
    """
    on_cpu = torch.device(device).type == 'cpu'
    for backbone in case.backbones:  # raises before anything is measured
        check_form(backbone, case, device)
    builds: dict[str, tuple] = {
        b: (build_step, b, case, device) for b in case.backbones
    }
    for name, build in references(device).items():
        builds[name] = (build, case, device)
    rows: dict[str, dict] = {
        name: dict(
            case=str(case),
            backbone=name,
            batch=case.batch,
            operations=product_side(device) ** 3 * (name == PRODUCT),
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
                rows[name]['seconds'] += (round(seconds, 7),)
        for backbone in case.backbones if on_cpu else ():
            rows[backbone] |= workers[backbone].submit(_profile_step).result()
    with ExitStack() as stack:
        workers = {
            backbone: stack.enter_context(_start_process(RETURN_FREED))
            for backbone in case.backbones
            # The peak is the same with it, and a CUDA graph has its own.
            if not case.keep_memory
            and 'cuda_graph' not in split_forms(backbone)[0]
        }
        for backbone, worker in workers.items():
            args = backbone, case, device
            memory = worker.submit(_measure_peak, *args).result()
            if memory is not None:
                rows[backbone]['memory'] = memory
    for backbone in case.backbones:
        counted = count_operations(subject_of(backbone), case.shape)
        # The backward pass has two products for each of the forward pass.
        times = case.batch * (3 if case.train else 1)
        rows[backbone]['operations'] = times * counted.operations
        rows[backbone]['products'] = times * counted.products
    return list(rows.values())


def _check_forms(
    features: Mapping[str, Sequence[np.ndarray]], tolerance: float
) -> None:
    """Raise AssertionError if two forms of a backbone differ."""
    expected: dict[str, Sequence[np.ndarray]] = {}
    for backbone, outs in features.items():
        first = expected.setdefault(subject_of(backbone), outs)
        for a, b in zip(outs, first, strict=True):
            np.testing.assert_allclose(
                a, b, tolerance, tolerance, err_msg=backbone
            )


def _log_warnings_only() -> None:
    """Else mm logs the initialization of each weight of a model."""
    MMLogger.get_current_instance().setLevel('WARNING')


def _start_process(environment: Mapping[str, str]) -> ProcessPoolExecutor:
    """Start one new process; malloc reads its variables at the start."""
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(1, context, _log_warnings_only)
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
    step = build_step(backbone, case, device)
    for _ in range(WARMUP):
        step()
    return peak_memory(step, device)
