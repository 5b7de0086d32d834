"""Checks of annotations in COCO's JSON format."""

from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

# The errors that values of other types raise.
WRONG_TYPE = AttributeError, KeyError, OverflowError, TypeError


def check_unique(content: Any, classes: Container[str] | None = None) -> None:
    """Check that ids of images and categories, and names, are not repeated.

    Args:
        content (Any): The content of the JSON.
        classes (Container[str], optional): The names of categories that
            matter. Defaults to None, all.

    Raises:
        ValueError: If an id or a name is there twice. Values of other types
            raise one of WRONG_TYPE.
    """
    for kind in ('images', 'categories'):
        ids = Counter(entry['id'] for entry in content[kind])
        for key, count in ids.most_common(1):
            if count > 1:
                raise ValueError(f"the id {key!s:.60} is twice in '{kind}'")
    first: dict[str, Any] = {}
    for category in content['categories']:
        name, number = category['name'], category['id']
        if classes is not None and name not in classes:
            continue
        if first.setdefault(name, number) != number:
            raise ValueError(
                f'two categories are named {name!s:.60} (ids '
                f'{first[name]!s:.60}, {number!s:.60}): rename one, merge '
                'them, or remove the one without annotations'
            )


def check_coco(content: Any, classes: Sequence[str]) -> None:
    """Check that annotations fit the classes of a data set.

    mmdet numbers the classes in the order of the JSON's categories, and names
    them in the order of the data set: another order gives wrong names, and a
    class that is missing gives wrong numbers.

    Args:
        content (Any): The content of the JSON.
        classes (Sequence[str]): The classes of the data set.

    Raises:
        ValueError: If the annotations do not fit.
    """
    try:
        check_unique(content, classes)
        names = [category['name'] for category in content['categories']]
    except WRONG_TYPE as error:
        raise ValueError(f'it is not in the COCO format: {error}') from error
    if [name for name in names if name in classes] != list(classes):
        missing = [name for name in classes if name not in names]
        raise ValueError(
            f'{quote(missing or classes)} in metainfo.classes must be names '
            f'of its categories, in their order: {quote(names)}'
        )


def quote(names: Sequence[str]) -> str:
    """List names in quotes, the first ten of them."""
    more = f' and {len(names) - 10} more' if len(names) > 10 else ''
    return ', '.join(f"'{name!s:.60}'" for name in names[:10]) + more
