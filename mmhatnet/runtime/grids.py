"""G1 and G2 as inputs of an ONNX file.

What can change in a graph are the sizes of its inputs, so each of G1 and G2
is the length of an input of its own.
"""

from collections.abc import Sequence

import numpy as np

from .metadata import LARGEST

INPUTS = tuple(f'{name}_{stage}' for name in ('G1', 'G2') for stage in '012')


def check_setting(sizes: Sequence[int]) -> list[int]:
    """Check G1 or G2 of the stages 0 to 2.

    Raises:
        ValueError: If they are not three integers from 1 to LARGEST.
    """
    found = list(sizes)
    if [type(size) for size in found] != [int] * 3 or not (
        1 <= min(found) <= max(found) <= LARGEST
    ):
        raise ValueError(
            f'G1 and G2 are three integers from 1 to {LARGEST}, such as '
            f'(8, 8, 8), not {sizes!r:.60}'
        )
    return found


def grid_inputs(
    g1: Sequence[int], g2: Sequence[int], shape: Sequence[int]
) -> dict[str, np.ndarray]:
    """Make the inputs of G1 and G2.

    Windows and cells beyond a map would only cost time, so they are cut to a
    side that no map of the stage exceeds, with either stride of the stem.

    Args:
        g1 (Sequence[int]): G1 of the stages 0 to 2.
        g2 (Sequence[int]): G2 of the stages 0 to 2.
        shape (Sequence[int]): Height and width of the images in pixels.

    Returns:
        dict[str, ndarray]: Arrays of zeros, by the names in INPUTS.
    """
    largest = [-(-max(shape) // 2 ** (stage + 1)) for stage in range(3)] * 2
    lengths = np.minimum([*g1, *g2], largest)
    return {
        name: np.zeros(length, np.float32)
        for name, length in zip(INPUTS, lengths, strict=True)
    }
