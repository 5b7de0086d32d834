"""The size of the images with which a model keeps a budget of time."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

from .arrays import prepare

FACTORS = [2 ** (-i / 4) for i in range(9)]  # of the sides, down to a quarter
PHOTO = 480, 640, 3  # for which a size is chosen
ROUNDS = 5


def choose_size(
    run: Callable[[np.ndarray], object], metadata: dict, budget_ms: float
) -> tuple[list[dict], float]:
    """Choose the largest images with which a model keeps a budget.

    The size of the file is tried first, then smaller ones, with an image of
    640x480 pixels, on which ``run`` runs the graph.

    Returns:
        tuple[list[dict], float]: The steps before the model with the new size,
        and the time that was measured with it, in milliseconds.

    Raises:
        ValueError: If the file leaves the size of images as it is, or no size
            is within the budget.
    """
    if not metadata['steps']:
        raise ValueError(
            'this model takes images at their own size, so no size can be '
            'chosen for a budget: resize the images'
        )
    lowest = float('inf')
    for factor in FACTORS:
        steps = [_scale(step, factor) for step in metadata['steps']]
        try:
            photo = np.zeros(PHOTO, np.uint8)
            images = prepare(photo, metadata | dict(steps=steps))
        except ValueError:  # too small for HAT-Net
            break
        times = [perf_counter()]
        for _ in range(1 + ROUNDS):
            run(images)
            times.append(perf_counter())
        # The first one of a size takes longer.
        lowest = min(lowest, 1000 * median(np.diff(times)[1:]))
        if lowest <= budget_ms:
            return steps, lowest
    raise ValueError(
        f'no size of images is within {budget_ms:g} ms: the fastest takes '
        f'{lowest:.1f} ms'
    )


def _scale(step: dict, factor: float) -> dict:
    """Scale the sizes of a step."""
    sizes = {key: step[key] for key in step.keys() & {'scale', 'size'}}
    for key, sides in sizes.items():
        scaled = np.maximum(1, np.rint(np.multiply(sides, factor)))
        sizes[key] = scaled.astype(int).tolist()
    return step | sizes
