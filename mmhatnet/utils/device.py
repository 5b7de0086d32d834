"""The devices of this machine, and what they support."""

from pathlib import Path

import torch

CPU_INFO = Path('/proc/cpuinfo')


def find_device(name: str | torch.device) -> torch.device:
    """Find a device by name.

    Args:
        name (str | torch.device): Such as 'cpu' or 'cuda:0'.

    Returns:
        torch.device: The device.

    Raises:
        ValueError: If there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"no device '{name}': choose cpu, cuda or cuda:N"
        ) from None
    count = torch.cuda.device_count()
    if device.type == 'cuda' and (device.index or 0) >= count:
        found = f'{count} GPUs' if count else 'no GPU'
        raise ValueError(f"no device '{name}': torch finds {found}")
    return device


def computes_bfloat16() -> bool:
    """Whether Linux says that this CPU has instructions for bfloat16.

    Without them, torch emulates it.
    """
    try:
        return 'bf16' in CPU_INFO.read_text('utf-8')
    except OSError:  # not Linux
        return False
