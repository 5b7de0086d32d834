"""What the layouts with boxes share."""

from collections.abc import Iterator
from itertools import chain
from math import isfinite

from ...datasets.coco import WRONG_TYPE
from ...datasets.coco2semantic import encode_mask
from ..samples import Box, Found, Sample
from .files import Files


def check_boxes(found: Found, files: Files) -> None:
    """Check boxes and masks; the task is instances if all objects have masks.

    Boxes are cut at the borders of their image.
    """
    for sample in found.samples:
        sample.boxes = list(_cut(sample, files))
    objects = [box for s in found.samples for box in s.boxes]
    drawn = [box.mask is not None for box in objects if not box.crowd]
    if any(drawn) and all(drawn):
        found.task = 'instances'
        return
    if any(drawn):
        files.odd.add('masks', sum(drawn))
    for sample in found.samples:
        sample.boxes = [x._replace(mask=None) for x in sample.boxes]


def _cut(sample: Sample, files: Files) -> Iterator[Box]:
    width, height = sample.size
    name = sample.image.relative_to(files.root)
    for box in sample.boxes:
        left, right = max(0, box.left), min(width, box.right)
        top, bottom = max(0, box.top), min(height, box.bottom)
        small = min(right - left, bottom - top) < 1
        if small or not all(map(isfinite, box[:4])):
            files.odd.add('invisible', name)
            continue
        beyond = left - box.left, box.right - right, top - box.top
        if max(*beyond, box.bottom - bottom) > 1:
            files.odd.add('beyond', name)
        try:
            mask = _encode(box, width, height)
        except (*WRONG_TYPE, ValueError) as error:
            files.odd.add('incomplete', name, error)
            continue
        yield Box(left, top, right, bottom, box.label, mask, box.crowd)


def _encode(box: Box, width: int, height: int) -> dict | None:
    """Encode a mask, if there is one that is more than the box."""
    mask = box.mask
    if isinstance(mask, dict):
        if mask.get('size') != [height, width]:
            return None
    else:
        mask = [polygon for polygon in mask or () if len(polygon) >= 6]
        if not mask or not all(map(isfinite, chain(*mask))):
            return None
        corners = {box.left, box.right}, {box.top, box.bottom}
        x, y = {*mask[0][::2]}, {*mask[0][1::2]}
        if len(mask) == 1 and len(mask[0]) in (8, 10) and (x, y) == corners:
            return None
    rle = encode_mask(mask, height, width)
    if isinstance(rle['counts'], bytes):  # which JSON has not
        rle['counts'] = rle['counts'].decode()
    return rle
