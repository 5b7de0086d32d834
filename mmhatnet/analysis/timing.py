"""Measure time and memory."""

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def time_once(
    step: Callable[[], object], device: str | torch.device = 'cpu'
) -> float:
    """Time one call, until the device has finished, in seconds."""
    device = torch.device(device)
    _synchronize(device)
    start = time.perf_counter()
    step()
    _synchronize(device)
    return time.perf_counter() - start


def time_in_turns(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str | torch.device = 'cpu',
) -> dict[str, list[float]]:
    """Time several functions alternately, under the same conditions.

    Args:
        steps (Mapping[str, Callable]): The functions by name. Each runs once
            untimed before the first round.
        rounds (int): Number of rounds.
        device (str | torch.device): The device. Defaults to 'cpu'.

    Returns:
        dict[str, list[float]]: The seconds of each function in each round.
    """
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(time_once(step, device))
    return seconds


def peak_memory(
    step: Callable[[], object], device: str | torch.device = 'cpu'
) -> int | None:
    """Measure the peak memory of one call, above the memory used before it.

    On a GPU, this is the memory that torch allocates. On a CPU, it is the
    resident memory of the process. Call the function before, so that the
    memory it keeps is not counted.

    Returns:
        int, optional: Bytes; None on a CPU of a system other than Linux.
    """
    device = torch.device(device)
    if device.type == 'cuda':
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    status = Path('/proc/self/status')
    try:
        # Return freed memory to the system, because reusing it would not
        # show, and reset the peak.
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5', 'utf-8')
    except (OSError, AttributeError):
        return None

    def kibibytes(key: str) -> int:
        return int(
            status.read_text('utf-8').partition(f'{key}:')[2].split()[0]
        )

    before = kibibytes('VmRSS')
    step()
    return 1024 * (kibibytes('VmHWM') - before)


def kept_memory(model: nn.Module, images: Tensor) -> int:
    """Measure what a model keeps for the backward pass of images.

    Returns:
        int: The bytes of all tensors that autograd keeps, without the
        parameters.
    """
    with watching_kept(model) as kept:
        outputs = model(images)  # they hold what is kept, until we return
    del outputs
    return sum(kept.values())


@contextmanager
def watching_kept(model: nn.Module) -> Iterator[dict[int, int]]:
    """Watch what autograd keeps inside a ``with`` block.

    Yields:
        dict[int, int]: The bytes of each storage that is kept, by its address,
        without the parameters of the model.
    """
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield kept
