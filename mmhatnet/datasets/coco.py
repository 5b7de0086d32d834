"""Checks of annotations in COCO's JSON format."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

ID = int | str
# List of the JSON -> key of its entries that mmdet reads -> type.
LISTS: dict[str, dict] = {
    'images': dict(
        id=ID, file_name=str, width=int | float, height=int | float
    ),
    'categories': dict(id=ID, name=str),
    'annotations': dict(
        id=ID, image_id=ID, category_id=ID, bbox=list, area=int | float
    ),
}
# An image that no library can read.
MAX_PIXELS = 2**30


def check_lists(content: Any, lists: Mapping[str, Mapping]) -> None:
    """Check that a JSON has COCO's lists, and their entries what is needed.

    Args:
        content (Any): The content of the JSON.
        lists (Mapping[str, Mapping]): Such as LISTS.

    Raises:
        ValueError: If something is missing or of another type, or an id is
            not unique.
    """
    for name, keys in lists.items():
        part = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(part, list):
            raise ValueError(f"it has no '{name}'")
        for entry in part:
            for key, kind in keys.items():
                if not isinstance(entry, Mapping) or key not in entry:
                    raise ValueError(
                        f"an entry of '{name}' has no '{key}': {entry!s:.200}"
                    )
                if not _is_a(entry[key], kind):
                    raise ValueError(
                        f"an entry of '{name}' has the wrong '{key}' "
                        f'{entry[key]!r:.60}: {entry!s:.200}'
                    )
        ids = Counter(entry['id'] for entry in part)
        twice = [key for key, count in ids.items() if count > 1]
        if twice:
            raise ValueError(f"the id {twice[0]!s:.60} is twice in '{name}'")
    for image in content['images']:
        width, height = image['width'], image['height']
        if not 0 < width * height <= MAX_PIXELS or width < 0:
            raise ValueError(
                f'{image["file_name"]:.200} has {width}x{height} pixels'
            )


def _is_a(value: object, kind: type) -> bool:
    """Like isinstance, but 1.0, which other tools write, is an integer."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return isinstance(value, kind)


def check_names(
    categories: Sequence[Mapping],
    annotations: Sequence[Mapping],
    names: Container[str],
) -> None:
    """Check that no two categories have the same name.

    Args:
        categories (Sequence[Mapping]): The categories of the JSON.
        annotations (Sequence[Mapping]): Its annotations, which tell what is
            not used.
        names (Container[str]): The names that matter.

    Raises:
        ValueError: If two have the same name. The message has their ids.
    """
    ids = defaultdict(list)
    for category in categories:
        if category['name'] in names:
            ids[category['name']].append(category['id'])
    used = {annotation['category_id'] for annotation in annotations}
    for name, same in ids.items():
        if len(same) > 1:
            unused = next((key for key in same if key not in used), None)
            remedy = (
                'rename one, or merge them'
                if unused is None
                else f'remove the unused one, {unused!s:.60}'
            )
            shown = ', '.join(map(str, same))
            raise ValueError(
                f'{len(same)} categories are named {name:.60} (ids '
                f'{shown:.60}): {remedy}'
            )


def check_coco(
    content: Any, classes: Sequence[str], labelled: bool = True
) -> None:
    """Check that annotations fit the classes of a data set.

    mmdet numbers the classes in the order of the JSON's categories, and names
    them in the order of the data set: another order gives wrong names, and a
    class that is missing gives wrong numbers.

    Args:
        content (Any): The content of the JSON.
        classes (Sequence[str]): The classes of the data set.
        labelled (bool): There are annotations. Defaults to True.

    Raises:
        ValueError: If the annotations do not fit.
    """
    lists = dict(LISTS)
    if not labelled:
        del lists['annotations']
    check_lists(content, lists)
    for name in lists:
        if not content[name]:
            raise ValueError(f"it has no '{name}'")
    annotations = content['annotations'] if labelled else ()
    check_names(content['categories'], annotations, classes)
    names = [category['name'] for category in content['categories']]
    missing = [name for name in classes if name not in names]
    if missing:
        raise ValueError(
            f'{quote(missing)} of the data set (metainfo.classes) is not '
            f'among its categories {quote(names)}'
        )
    order = [name for name in names if name in classes]
    if order != list(classes):
        raise ValueError(
            'metainfo.classes needs the order of its categories: '
            f'{quote(order)}'
        )


def quote(names: Sequence[str]) -> str:
    """List names in quotes, the first ten of them."""
    more = f' and {len(names) - 10} more' if len(names) > 10 else ''
    return ', '.join(f"'{name:.60}'" for name in names[:10]) + more


def find_odd_annotations(content: Mapping) -> Iterator[tuple[bool, str]]:
    """Find annotations that are wrong or that mmdet leaves out.

    Args:
        content (Mapping): The content of the JSON, which has passed
            :func:`check_coco`.

    Yields:
        tuple[bool, str]: Whether it stops or falsifies a training (or is only
        left out), and what it is.
    """
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    used = set()
    for annotation in content.get('annotations') or ():
        where = f'annotation {annotation["id"]!s:.60}'
        image = images.get(annotation['image_id'])
        if image is None:
            wanted = f'{annotation["image_id"]!s:.60}'
            yield True, f'{where}: there is no image {wanted}'
            continue
        used.add(annotation['image_id'])
        if annotation['category_id'] not in categories:
            wanted = f'{annotation["category_id"]!s:.60}'
            yield True, f'{where}: there is no category {wanted}'
        size = image['width'], image['height']
        yield from (
            (severe, f'{where} of {image["file_name"]:.200}: {line}')
            for severe, line in _judge(annotation, *size)
        )
    empty = len(images) - len(used)
    if empty:
        yield False, f'{empty} images have no annotation'


def _judge(
    annotation: Mapping, width: int, height: int
) -> Iterator[tuple[bool, str]]:
    box = annotation['bbox']
    if not _are_finite(box) or len(box) != 4:
        yield True, f'the box is {box!s:.200}'
    else:
        x, y, w, h = box
        if w < 1 or h < 1 or not annotation['area'] > 0:
            yield False, f'the box {box} has no area'
        elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
            yield False, f'the box {box} is outside of {width}x{height} pixels'
        elif x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
            yield True, f'the box {box} goes beyond {width}x{height} pixels'
    masks = annotation.get('segmentation')
    if isinstance(masks, Mapping):
        if masks.get('size') != [height, width]:
            yield (
                True,
                f'the mask is for {masks.get("size")!s:.60} and not for '
                f'{[height, width]} (height, width)',
            )
    elif masks and not isinstance(masks, list):
        yield True, f'the segmentation is {masks!s:.200}'
    elif masks:
        odd = find_odd_coordinate(masks, width, height)
        if odd is not None:
            yield True, f'a polygon has the coordinate {odd!s:.60}'


def _are_finite(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(x, int | float) and isfinite(x) for x in values
    )


def find_odd_coordinate(
    polygons: list, width: int, height: int
) -> object | None:
    """Find a coordinate that pycocotools cannot rasterise.

    It takes memory for the way to a point, however far away that is.

    Args:
        polygons (list): Lists of coordinates.
        width (int): Of the image, in pixels.
        height (int): Of the image, in pixels.

    Returns:
        object, optional: The coordinate; None if there is none.
    """
    limit = 2 * max(width, height)
    for polygon in polygons:
        for value in polygon if isinstance(polygon, list) else [polygon]:
            if not isinstance(value, int | float) or not abs(value) <= limit:
                return value
    return None
