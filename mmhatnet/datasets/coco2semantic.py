import json
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .coco import WRONG_TYPE, quote

IGNORED = 255
# No library can read an image with more pixels.
MAX_PIXELS = 2**30


def encode_mask(segmentation: Any, height: int, width: int) -> dict:
    """Convert polygons or either form of RLE to compressed RLE.

    Args:
        segmentation (Any): As in COCO's JSON.
        height (int): Height of the image in pixels.
        width (int): Its width.

    Returns:
        dict: RLE, as pycocotools computes with it.

    Raises:
        ValueError: If it has no mask of this size.
    """
    from pycocotools import mask as mask_utils

    size = f'an image of {width}x{height} pixels'
    if isinstance(segmentation, list):
        # pycocotools reads a list of four numbers as a box, and the memory
        # that it takes grows with the distance of a point.
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        for value in chain(*polygons):
            if not abs(value) <= 2 * max(width, height):
                raise ValueError(
                    f'a polygon has the coordinate {value} in {size}'
                )
        if polygons:
            rles = mask_utils.frPyObjects(polygons, height, width)
            return mask_utils.merge(rles)
    elif segmentation and segmentation['size'] == [height, width]:
        if isinstance(segmentation['counts'], list):
            return mask_utils.frPyObjects(segmentation, height, width)
        return segmentation
    raise ValueError(f'it has no segmentation for {size}')


def _label_map(
    image: dict, annotations: list[dict], labels: dict[int, int]
) -> np.ndarray:
    """Make the labels of an image: (H, W), uint8."""
    from pycocotools import mask as mask_utils

    height, width = int(image['height']), int(image['width'])
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(
            f'{image["file_name"]:.200} has {width}x{height} pixels'
        )
    objects = []
    for annotation in annotations:
        try:
            rle = encode_mask(annotation.get('segmentation'), height, width)
        except ValueError as error:
            raise ValueError(
                f'annotation {annotation["id"]!s:.60}: {error}'
            ) from error
        crowd, label = annotation.get('iscrowd'), annotation['category_id']
        order = (not crowd, -int(mask_utils.area(rle)))
        objects.append((order, rle, IGNORED if crowd else labels[label]))
    semantic = np.zeros((height, width), np.uint8)
    # Crowds first, then from large to small: later objects cover earlier ones.
    for _, rle, label in sorted(objects, key=lambda item: item[0]):
        semantic[mask_utils.decode(rle) > 0] = label
    return semantic


def coco_to_semantic(
    ann_file: str | Path, out_dir: str | Path
) -> tuple[str, ...]:
    """Make semantic label maps from COCO's instances.

    Each image of ``ann_file`` gets a PNG of its size, named after the stem of
    its ``file_name``, with one uint8 label per pixel. 0 is the background, and
    1 to N are the categories in the order of their ids. 255 marks crowds where
    no object covers them; training and evaluation ignore it. Where two objects
    overlap, the smaller one covers the larger one.

    Args:
        ann_file (str | Path): JSON file with COCO instances. Polygons and both
            forms of RLE are accepted.
        out_dir (str | Path): Folder for the PNGs. Existing files of the same
            names are overwritten.

    Returns:
        tuple[str, ...]: Names of the labels, beginning with ``'background'``.

    Raises:
        FileNotFoundError: If ``ann_file`` does not exist.
        ImportError: If pycocotools is not installed.
        ValueError: If ``ann_file`` does not contain COCO instances whose
            segmentations have the size of their image, if two images would
            get the same PNG, or if there are more than 254 categories.
    """
    out_dir = Path(out_dir)
    try:
        # As bytes, because json detects their encoding.
        data = json.loads(Path(ann_file).read_bytes())
        categories = sorted(data['categories'], key=lambda item: item['id'])
        classes = ('background', *(item['name'] for item in categories))
        labels = {item['id']: n for n, item in enumerate(categories, 1)}
        of_image: dict[int | str, list] = {
            image['id']: [] for image in data['images']
        }
        for found, name in (of_image, 'images'), (labels, 'categories'):
            if len(found) < len(data[name]):
                raise ValueError(f'two {name} have the same id')
        for annotation in data['annotations']:
            of_image[annotation['image_id']].append(annotation)
        names = defaultdict(list)
        for image in data['images']:
            names[Path(image['file_name']).stem].append(image['file_name'])
    except (*WRONG_TYPE, ValueError, RecursionError) as error:
        raise ValueError(
            f'{ann_file} does not contain COCO instances: '
            f'{type(error).__name__}: {error!s:.600}'
        ) from error
    if len(classes) > IGNORED:
        raise ValueError(
            f'{len(classes) - 1} categories: at most {IGNORED - 1} fit in '
            'uint8, beside the background and the ignored label'
        )
    for stem, same in names.items():
        if len(same) > 1:
            raise ValueError(f'{quote(same)} would share {stem:.200}.png')
    out_dir.mkdir(parents=True, exist_ok=True)
    for image in tqdm(data['images'], desc='label maps'):
        try:
            semantic = _label_map(image, of_image[image['id']], labels)
        except WRONG_TYPE as error:
            raise ValueError(
                f'{ann_file}, {image["file_name"]:.200}: {error!r:.200}'
            ) from error
        name = Path(image['file_name']).with_suffix('.png').name
        Image.fromarray(semantic).save(out_dir / name)
    return classes
