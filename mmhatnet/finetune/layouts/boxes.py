"""What the layouts with boxes share."""

from collections import Counter
from itertools import chain
from math import isfinite

from ..samples import Box, Reading, Sample
from .files import Files


def make_reading(
    layout: str, classes: list[str], samples: list[Sample], files: Files
) -> Reading:
    """Check boxes and masks, and leave classes without objects out.

    Args:
        layout (str): Name of the layout.
        classes (list[str]): Names of the boxes' labels.
        samples (list[Sample]): The images; their boxes are changed.
        files (Files): The files; gets what is odd.

    Returns:
        Reading: For instances, if all objects have masks; else for detection.
    """
    for sample in samples:
        sample.boxes = list(_cut(sample, files))
    objects = [box for s in samples for box in s.boxes or ()]
    used = Counter(box.label for box in objects)
    for label, name in enumerate(classes):
        if not used[label]:
            files.odd.add('classes without objects, left out', name)
    numbers = {label: number for number, label in enumerate(sorted(used))}
    drawn = sum(box.mask is not None for box in objects if not box.crowd)
    masks = drawn and drawn == sum(not box.crowd for box in objects)
    if drawn and not masks:
        files.odd.add('masks of some objects only, which are not used', drawn)
    for sample in samples:
        sample.boxes = [
            box._replace(
                label=numbers[box.label], mask=box.mask if masks else None
            )
            for box in sample.boxes or ()
        ]
    task = 'instances' if masks else 'detection'
    return Reading(layout, task, [classes[x] for x in numbers], samples)


def _cut(sample: Sample, files: Files):
    """Cut boxes at the borders of their image."""
    assert sample.size
    width, height = sample.size
    name = sample.image.relative_to(files.root)
    for box in sample.boxes or ():
        left, right = max(0, box.left), min(width, box.right)
        top, bottom = max(0, box.top), min(height, box.bottom)
        sides = right - left, bottom - top
        if not (all(map(isfinite, box[:4])) and min(sides) >= 1):
            files.odd.add(
                'boxes of less than a pixel in their image, left out', name
            )
            continue
        beyond = left - box.left, box.right - right, top - box.top
        if max(*beyond, box.bottom - bottom) > 1:
            files.odd.add('boxes that go beyond their image, cut', name)
        mask = box.mask if _is_mask(box, width, height) else None
        yield Box(left, top, right, bottom, box.label, mask, box.crowd)


def _is_mask(box: Box, width: int, height: int) -> bool:
    """Whether it has a mask, which is more than a polygon of its corners."""
    if isinstance(box.mask, dict):
        return box.mask.get('size') == [height, width]
    if not isinstance(box.mask, list):
        return False
    polygons = [each for each in box.mask if len(each) >= 6]
    if not all(map(isfinite, chain(*polygons))):
        return False
    if len(polygons) == 1 and len(polygons[0]) in (8, 10):
        x, y = {*polygons[0][::2]}, {*polygons[0][1::2]}
        return (x, y) != ({box.left, box.right}, {box.top, box.bottom})
    return bool(polygons)
