"""The size of images, G1 and G2 with which a model keeps a budget of time."""

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from .arrays import prepare

if TYPE_CHECKING:
    from .model import OnnxModel

FACTORS = [2 ** (-i / 4) for i in range(9)]  # of the sides, down to a quarter
PHOTO = 480, 640, 3  # for which a size is chosen
ROUNDS = 5
SKIPPED = 1.5  # a setting is not tried if it probably takes longer, by this


def choose(model: 'OnnxModel', budget_ms: float) -> float:
    """Choose the best images, G1 and G2 with which a model keeps a budget.

    If the file has a curve, its settings are tried, that with the best metric
    first. Else the size of the file is tried first, then smaller ones. They
    are timed with an image of 640x480 pixels.

    Args:
        model (OnnxModel): Its ``metadata['steps']``, G1 and G2 are changed.
        budget_ms (float): The time of the graph for one image, milliseconds.

    Returns:
        float: The time that was measured with what was chosen, milliseconds.

    Raises:
        ValueError: If nothing is within the budget.
    """
    whole = model.metadata['steps']
    rows = model.metadata.get('curve', {}).get('rows')
    rows = rows or [dict(factor=factor) for factor in FACTORS]
    lowest, slower = float('inf'), 0.0
    for row in sorted(rows, key=lambda x: -x.get('metric', 0)):
        if slower * row.get('ms', 0) > SKIPPED * budget_ms:
            continue
        model.metadata['steps'] = scale_steps(whole, row['factor'])
        if model.has_free_grids and 'G1' in row:
            model.set_grids(row['G1'], row['G2'])
        try:
            milliseconds = time_photo(model)
        except ValueError:  # too small for HAT-Net
            continue
        lowest = min(lowest, milliseconds)
        if milliseconds <= budget_ms:
            return milliseconds
        slower = milliseconds / row.get('ms', float('inf'))
    raise ValueError(
        f'no size of images is within {budget_ms:g} ms: the fastest takes '
        f'{lowest:.1f} ms'
    )


def prepare_photo(model: 'OnnxModel') -> np.ndarray:
    """Make an image of 640x480 pixels, after the steps: (1, 3, H, W)."""
    return prepare(np.zeros(PHOTO, np.uint8), model.metadata)


def time_photo(model: 'OnnxModel', rounds: int = ROUNDS) -> float:
    """Measure the milliseconds of the graph for an image of 640x480 pixels.

    ValueError if the steps make it too small.
    """
    images = prepare_photo(model)
    times = [perf_counter()]
    for _ in range(1 + rounds):
        model.run(images)
        times.append(perf_counter())
    # The first one of a size takes longer.
    return 1000 * median(np.diff(times)[1:])


def scale_steps(steps: list[dict], factor: float) -> list[dict]:
    """Scale the sizes of the steps before a model, or of the image itself."""
    found: list[dict] = []
    if not steps and factor != 1:
        method = dict(interpolation='bilinear', backend='cv2')
        return [dict(method, step='resize_factor', factor=float(factor))]
    for step in steps:
        sizes = {key: step[key] for key in step.keys() & {'scale', 'size'}}
        for key, sides in sizes.items():
            scaled = np.maximum(1, np.rint(np.multiply(sides, factor)))
            sizes[key] = scaled.astype(int).tolist()
        found.append(step | sizes)
    return found
