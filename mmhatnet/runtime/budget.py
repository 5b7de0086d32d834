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
    640x480 pixels.

    Args:
        run (Callable): Runs the graph for images (1, 3, H, W).
        metadata (dict): As :attr:`~mmhatnet.runtime.OnnxModel.metadata`.
        budget_ms (float): The time of the graph for one image, milliseconds.

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
    photo = np.zeros(PHOTO, np.uint8)
    lowest = float('inf')
    for factor in FACTORS:
        steps = [_scale(step, factor) for step in metadata['steps']]
        try:
            images = prepare(photo, {**metadata, 'steps': steps})
        except ValueError:  # too small for HAT-Net
            break
        run(images)  # the first one of a size takes longer
        seconds = [_time(run, images) for _ in range(ROUNDS)]
        lowest = min(lowest, 1000 * median(seconds))
        if lowest <= budget_ms:
            return steps, lowest
    raise ValueError(
        f'no size of images is within {budget_ms:g} ms: the fastest takes '
        f'{lowest:.1f} ms'
    )


def _time(run: Callable[[np.ndarray], object], images: np.ndarray) -> float:
    start = perf_counter()
    run(images)
    return perf_counter() - start


def _scale(step: dict, factor: float) -> dict:
    """Scale the sizes of a step."""
    scaled = dict(step)
    for key in step.keys() & {'scale', 'size'}:
        sides = step[key]
        scaled[key] = (
            [max(1, round(side * factor)) for side in sides]
            if isinstance(sides, list)
            else max(1, round(sides * factor))
        )
    return scaled
