"""Types of arguments that several commands read."""

import argparse
import re

UNITS = dict(s=1, m=60, h=3600)


def positive(text: str) -> int:
    """Read an argument that is a number of things: ``type=positive``.

    Args:
        text (str): The argument.

    Returns:
        int: The number.

    Raises:
        ArgumentTypeError: If it is not an integer of at least 1.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive integer')
    return number


def fraction(text: str) -> float:
    """Parse a number from 0 to 1.

    Args:
        text (str): The argument.

    Returns:
        float: The number.

    Raises:
        ArgumentTypeError: If it is anything else, which argparse reports.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not a number from 0 to 1')
    return number


def duration(text: str) -> float:
    """Parse a time such as 90s, 15m or 2h.

    Args:
        text (str): The argument.

    Returns:
        float: Seconds.

    Raises:
        ArgumentTypeError: If it is anything else.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([smh]?)', text)
    seconds = float(match[1]) * UNITS[match[2] or 's'] if match else 0.0
    if not seconds:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time such as 90s, 15m or 2h"
        )
    return seconds
