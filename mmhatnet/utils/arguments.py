"""Types of arguments that several commands read, for argparse."""

import argparse
import re

UNITS = dict(s=1, m=60, h=3600)


def positive(text: str) -> int:
    """Read a positive integer: ``type=positive``; else ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive integer')
    return int(text)


def fraction(text: str) -> float:
    """Read a number from 0 to 1; else ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not a number from 0 to 1')
    return number


def sizes(text: str) -> tuple[int, ...]:
    """Read sizes of stages, such as 8,4,2; else ArgumentTypeError."""
    return tuple(positive(part) for part in text.split(','))


def duration(text: str) -> float:
    """Read seconds, such as 90s, 15m or 2h; else ArgumentTypeError."""
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([smh])', text)
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not seconds:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time above zero such as 90s, 15m or 2h"
        )
    return seconds
