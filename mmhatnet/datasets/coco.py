"""Checks of annotations in COCO's JSON format."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any

# List of the JSON -> keys of its entries that mmdet reads.
KEYS: dict[str, tuple[str, ...]] = {
    'images': ('id', 'file_name', 'width', 'height'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
}
# The errors that values of other types raise.
WRONG_TYPE = AttributeError, KeyError, OverflowError, TypeError
# No library can read an image with more pixels.
MAX_PIXELS = 2**30


def check_lists(
    content: Any,
    keys: Mapping[str, Sequence[str]],
    classes: Container[str] | None = None,
) -> None:
    """Check that a JSON has COCO's lists, and that ids and names are unique.

    Args:
        content (Any): The content of the JSON.
        keys (Mapping[str, Sequence[str]]): Such as KEYS.
        classes (Container[str], optional): The names of categories that
            matter. Defaults to None, all.

    Raises:
        ValueError: If a key is missing, an id or a name is there twice, or
            the size of an image is impossible. Values of other types raise
            one of WRONG_TYPE.
    """
    for name in keys:
        for entry in content[name]:
            for key in keys[name]:
                if key not in entry:
                    raise ValueError(
                        f"an entry of '{name}' has no '{key}': {entry!s:.200}"
                    )
        ids = Counter(entry['id'] for entry in content[name])
        for key, count in ids.most_common(1):
            if count > 1:
                raise ValueError(f"the id {key!s:.60} is twice in '{name}'")
    for image in content['images']:
        width, height = image['width'], image['height']
        if not 0 < width * height <= MAX_PIXELS or width < 0:
            raise ValueError(
                f'{image["file_name"]!s:.200} has {width}x{height} pixels'
            )
    used = {each['category_id'] for each in content.get('annotations') or ()}
    first: dict[str, Any] = {}
    for category in content['categories']:
        name, number = category['name'], category['id']
        if classes is not None and name not in classes:
            continue
        other = first.setdefault(name, number)
        if other != number:
            unused = [each for each in (other, number) if each not in used]
            remedy = (
                f'remove the unused one, {unused[0]!s:.60}'
                if unused
                else 'rename one, or merge them'
            )
            raise ValueError(
                f'two categories are named {name!s:.60} (ids {other!s:.60}, '
                f'{number!s:.60}): {remedy}'
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
        labelled (bool): There must be annotations. Defaults to True.

    Raises:
        ValueError: If the annotations do not fit.
    """
    lists = [name for name in KEYS if labelled or name != 'annotations']
    try:
        for name in lists:
            if not content.get(name):
                raise ValueError(f"it has no '{name}'")
        check_lists(content, {name: KEYS[name] for name in lists}, classes)
    except WRONG_TYPE as error:
        raise ValueError(f'it is not in the COCO format: {error}') from error
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
    return ', '.join(f"'{name!s:.60}'" for name in names[:10]) + more
