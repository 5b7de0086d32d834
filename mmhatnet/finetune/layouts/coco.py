"""COCO JSON, also as roboflow exports it."""

import json
from collections.abc import Iterator
from pathlib import Path

from ...datasets.coco import WRONG_TYPE
from ..samples import Box, Reading, Sample
from .boxes import make_reading
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
    numbers: dict[str, int] = {}
    samples: dict[Path, Sample] = {}
    for path, content in contents.items():
        try:
            for each in content['categories']:
                numbers.setdefault(str(each['name']), len(numbers))
            for sample in _read_json(path, content, numbers, files):
                if sample.image in samples:
                    files.odd.add(
                        'images in several JSON files, of which the first '
                        'counts',
                        sample.image.relative_to(files.root),
                    )
                samples.setdefault(sample.image, sample)
        except (*WRONG_TYPE, ValueError) as error:
            raise ValueError(
                f'{path} is not in the COCO format: {type(error).__name__}: '
                f'{error!s:.200}'
            ) from error
    return make_reading('COCO', list(numbers), [*samples.values()], files)


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


def _read_json(
    path: Path, content: dict, numbers: dict[str, int], files: Files
) -> Iterator[Sample]:
    """Read the images of a JSON that exist and fit it."""
    split = split_of(*path.parent.parts) or split_of(path.stem, strict=False)
    labels = {
        each['id']: numbers[str(each['name'])]
        for each in content['categories']
    }
    objects: dict = {image['id']: [] for image in content['images']}
    for each in content['annotations']:
        if (
            each['image_id'] not in objects
            or each['category_id'] not in labels
        ):
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
            Box(
                *(x, y, x + w, y + h),
                label=labels[each['category_id']],
                mask=each.get('segmentation') or None,
                crowd=bool(each.get('iscrowd')),
            )
            for each in objects[image['id']]
            for x, y, w, h in [each['bbox']]
        ]
        yield Sample(files.root / found, None, boxes, None, size, split)
