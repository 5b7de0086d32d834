"""COCO JSON, also as roboflow exports it."""

import json
from collections import Counter
from pathlib import Path

from ...datasets.coco import WRONG_TYPE
from ..samples import Box, Reading, Sample
from .files import Files, split_of

LISTS = 'images', 'annotations', 'categories'


def read_coco(files: Files) -> Reading | None:
    """Read boxes, and masks if all objects have them.

    Args:
        files (Files): The files.

    Returns:
        Reading, optional: The images; None without such a JSON.

    Raises:
        ValueError: If a JSON is not what it seems to be.
    """
    contents = _load(files)
    if not contents:
        return None
    used: Counter = Counter()
    samples: dict[Path, Sample] = {}
    for path, content in contents.items():
        try:
            for sample, names in _read_json(path, content, files):
                if sample.image in samples:
                    files.odd.add(
                        'images in several JSON files, of which the first '
                        'counts',
                        sample.image.relative_to(files.root),
                    )
                    continue
                samples[sample.image] = sample
                used.update(names)
        except (*WRONG_TYPE, ValueError) as error:
            raise ValueError(
                f'{path} is not in the COCO format: {type(error).__name__}: '
                f'{error!s:.200}'
            ) from error
    # The exports of some programs have a category for all others.
    for content in contents.values():
        for each in content['categories']:
            if each['name'] not in used:
                files.odd.add(
                    'classes without objects, left out', each['name']
                )
                used[each['name']] = 0
    order = [
        each['name'] for c in contents.values() for each in c['categories']
    ]
    classes = [name for name in dict.fromkeys(order) if used[name]]
    return make_reading('COCO', classes, list(samples.values()), files)


def _load(files: Files) -> dict[Path, dict]:
    """Load the JSON files that have objects."""
    found = {}
    for path in files.others['.json']:
        try:
            content = json.loads((files.root / path).read_bytes())
        except (ValueError, RecursionError) as error:
            files.odd.add(
                'JSON files that cannot be read', f'{path} ({error!s:.100})'
            )
            continue
        if isinstance(content, dict) and all(
            isinstance(content.get(name), list) for name in LISTS
        ):
            found[path] = content
    instances = {p: c for p, c in found.items() if 'instances' in p.name}
    return instances or found


def _read_json(path: Path, content: dict, files: Files):
    """Read the images of a JSON, each with the names of its objects."""
    split = split_of(*path.parent.parts) or split_of(path.stem, strict=False)
    names = {each['id']: each['name'] for each in content['categories']}
    objects: dict = {image['id']: [] for image in content['images']}
    for each in content['annotations']:
        if each['image_id'] not in objects or each['category_id'] not in names:
            files.odd.add(
                'objects without their image or category, left out',
                f'{path}, id {each.get("id")}',
            )
        else:
            objects[each['image_id']].append(each)
    for image in content['images']:
        name = image['file_name']
        found = files.find(name, path, split)
        size = found and files.size(found)
        if not found:
            files.odd.add('labels without their image, left out', name)
        if not found or not size:
            continue
        stated = image.get('width', size[0]), image.get('height', size[1])
        if stated != size:
            wrong = f'{size[0]}x{size[1]}, not {stated[0]}x{stated[1]}'
            files.odd.add(
                'images that have another size than their labels say, left '
                'out; label them again',
                f'{found}, {wrong}',
            )
            continue
        boxes = [
            Box(x, y, x + w, y + h, names[each['category_id']], mask, crowd)
            for each in objects[image['id']]
            for x, y, w, h in [each['bbox']]
            for mask in [each.get('segmentation') or None]
            for crowd in [bool(each.get('iscrowd'))]
        ]
        sample = Sample(files.root / found, None, boxes, None, size, split)
        yield sample, [box.label for box in boxes]


def make_reading(
    layout: str, classes: list[str], samples: list[Sample], files: Files
) -> Reading:
    """Make a reading of boxes whose labels are still names.

    Args:
        layout (str): Name of the layout.
        classes (list[str]): The classes in their order.
        samples (list[Sample]): The images; their boxes are changed.
        files (Files): The files, whose images without a sample are noted.

    Returns:
        Reading: Boxes of the images' area; with masks if all objects have
        them.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    for sample in samples:
        assert sample.size is not None
        width, height = sample.size
        boxes = []
        for box in sample.boxes or ():
            name = sample.image.relative_to(files.root)
            left, right = max(0, box.left), min(width, box.right)
            top, bottom = max(0, box.top), min(height, box.bottom)
            if not (right - left >= 1 and bottom - top >= 1):
                files.odd.add(
                    'boxes of less than a pixel in their image, left out', name
                )
                continue
            beyond = max(left - box.left, box.right - right)
            if max(beyond, top - box.top, box.bottom - bottom) > 1:
                files.odd.add('boxes that go beyond their image, cut', name)
            label = numbers[box.label]
            boxes.append(
                Box(left, top, right, bottom, label, box.mask, box.crowd)
            )
        sample.boxes = boxes
    objects = [b for s in samples for b in s.boxes or () if not b.crowd]
    drawn = sum(_has_mask(box) for box in objects)
    task = 'instances' if objects and drawn == len(objects) else 'detection'
    if 0 < drawn < len(objects):
        files.odd.add(
            'masks are not used, since only some objects have them',
            f'{drawn} of {len(objects)}',
        )
    if task == 'detection':
        for sample in samples:
            sample.boxes = [b._replace(mask=None) for b in sample.boxes or ()]
    return Reading(layout, task, classes, samples)


def _has_mask(box: Box) -> bool:
    """Whether it has a mask, which is more than a polygon of its corners."""
    if isinstance(box.mask, dict):
        return True
    polygons = [each for each in box.mask or () if len(each) >= 6]
    corners = {box.left, box.right}, {box.top, box.bottom}
    if len(polygons) == 1 and len(polygons[0]) in (8, 10):
        x, y = {*polygons[0][::2]}, {*polygons[0][1::2]}
        return (x, y) != corners
    return bool(polygons)
