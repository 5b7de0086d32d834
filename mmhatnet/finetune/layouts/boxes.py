"""What the layouts with boxes share."""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import isfinite

from ..samples import Box, Reading, Sample, sort_names
from .files import Files


def make_reading(
    layout: str,
    samples: list[Sample],
    files: Files,
    classes: Sequence[str] = (),
) -> Reading:
    """Check boxes and masks, and number their classes, those with objects.

    The labels of the boxes are names until then. Classes that are not given
    are in the order of their names. The task is instances if all objects have
    masks.
    """
    for sample in samples:
        sample.boxes = list(_cut(sample, files))
    objects = [box for s in samples for box in s.boxes or ()]
    used = {box.label for box in objects}
    for name in classes:
        if name not in used:
            files.odd.add('unused', name)
    order = [x for x in dict.fromkeys(classes) if x in used]
    order += sort_names(used - {*classes})
    drawn = [box.mask is not None for box in objects if not box.crowd]
    masks = any(drawn) and all(drawn)
    if any(drawn) and not masks:
        files.odd.add('masks', sum(drawn))
    for sample in samples:
        sample.boxes = [
            box._replace(
                label=order.index(box.label), mask=box.mask if masks else None
            )
            for box in sample.boxes or ()
        ]
    task = 'instances' if masks else 'detection'
    return Reading(layout, task, order, samples)


def _cut(sample: Sample, files: Files) -> Iterator[Box]:
    """Cut boxes at the borders of their image."""
    width, height = sample.size or (0, 0)
    name = sample.image.relative_to(files.root)
    for box in sample.boxes or ():
        left, right = max(0, box.left), min(width, box.right)
        top, bottom = max(0, box.top), min(height, box.bottom)
        small = min(right - left, bottom - top) < 1
        if small or not all(map(isfinite, box[:4])):
            files.odd.add('invisible', name)
            continue
        beyond = left - box.left, box.right - right, top - box.top
        if max(*beyond, box.bottom - bottom) > 1:
            files.odd.add('beyond', name)
        mask = box.mask if _is_mask(box, width, height) else None
        yield Box(left, top, right, bottom, box.label, mask, box.crowd)


def _is_mask(box: Box, width: int, height: int) -> bool:
    """Whether it has a mask, which is more than a polygon of its corners."""
    if isinstance(box.mask, dict):
        return box.mask.get('size') == [height, width]
    if not isinstance(box.mask, list):
        return False
    polygons = [each for each in box.mask if len(each) >= 6]
    if len(polygons) == 1 and len(polygons[0]) in (8, 10):
        x, y = {*polygons[0][::2]}, {*polygons[0][1::2]}
        if (x, y) == ({box.left, box.right}, {box.top, box.bottom}):
            return False
    return bool(polygons) and all(map(isfinite, chain(*polygons)))
