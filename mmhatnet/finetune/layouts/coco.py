"""COCO JSON, also as roboflow exports it."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...datasets.coco import WRONG_TYPE
from ..samples import Box, Found, Sample
from .files import Files, split_of_file

LISTS = 'images', 'annotations', 'categories'


def read_coco(files: Files) -> Found | None:
    """Read boxes and masks; None without a JSON."""
    contents = _load(files)
    if not contents:
        return None
    classes: dict[str, None] = {}
    samples: dict[Path, Sample] = {}
    for path, content in contents.items():
        try:
            classes |= {str(x['name']): None for x in content['categories']}
            for sample in _read_json(path, content, files):
                if samples.setdefault(sample.image, sample) is not sample:
                    name = sample.image.relative_to(files.root)
                    files.odd.add('double', name)
        except (*WRONG_TYPE, ValueError) as error:
            raise ValueError(
                f'{path} is not in the COCO format: {type(error).__name__}: '
                f'{error!s:.200}'
            ) from error
    found = [*samples.values()]
    return Found(files.root, 'COCO', 'detection', found, [*classes])


def _load(files: Files) -> dict[Path, dict]:
    """Load the JSON files that have objects."""
    found = {}
    for path in files.others['.json']:
        try:
            content = json.loads((files.root / path).read_bytes())
        except (ValueError, RecursionError) as error:
            files.odd.add('file', path, error)
            continue
        if isinstance(content, dict) and all(
            isinstance(content.get(name), list) for name in LISTS
        ):
            found[path] = content
    instances = {p: c for p, c in found.items() if 'instances' in p.name}
    return instances or found


def _read_json(path: Path, content: dict, files: Files) -> Iterator[Sample]:
    """Read the images of a JSON that exist and fit it."""
    labels = {x['id']: str(x['name']) for x in content['categories']}
    known = {image['id'] for image in content['images']}
    objects = defaultdict(list)
    for each in content['annotations']:
        try:
            image, category = each['image_id'], each['category_id']
            has_ids = image in known and category in labels
            x, y, w, h = map(float, each['bbox'])
        except (*WRONG_TYPE, ValueError):
            where = each.get('id') if isinstance(each, dict) else each
            files.odd.add('incomplete', f'{path}, id {where!s:.40}')
            continue
        if not has_ids:
            where = f'image_id {image!s:.40}, category_id {category!s:.40}'
            files.odd.add('ids', f'{path}, {where}')
            continue
        label = labels[category]
        mask, crowd = each.get('segmentation'), bool(each.get('iscrowd'))
        objects[image].append(Box(x, y, x + w, y + h, label, mask, crowd))
    for image in content['images']:
        sample = files.sample(path, split_of_file(path), image['file_name'])
        if not sample:
            continue
        width, height = sample.size
        stated = image.get('width', width), image.get('height', height)
        if stated != sample.size:
            sizes = f'{width}x{height}, not {stated[0]}x{stated[1]}'
            files.odd.add('size', sample.image.relative_to(files.root), sizes)
            continue
        sample.boxes = objects[image['id']]
        yield sample
