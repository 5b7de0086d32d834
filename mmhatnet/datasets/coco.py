"""Checks of annotations in COCO's JSON format."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

# The errors that values of other types raise.
WRONG_TYPE = AttributeError, KeyError, OverflowError, TypeError


def check_coco(content: Any, classes: Sequence[str] | None = None) -> None:
    """Check that ids and names are not repeated, and fit the classes.

    mmdet numbers the classes in the order of the JSON's categories, and names
    them in the order of the data set: another order gives wrong names, and a
    class that is missing gives wrong numbers.

    Args:
        content (Any): The content of the JSON.
        classes (Sequence[str], optional): The classes of the data set.
            Defaults to None, those of the JSON.

    Raises:
        ValueError: If the annotations do not fit.
    """
    try:
        names = [category['name'] for category in content['categories']]
        used = [x for x in names if classes is None or x in classes]
        for what, values in {
            'images have the id': [x['id'] for x in content['images']],
            'categories have the id': [x['id'] for x in content['categories']],
            'categories are named': used,
        }.items():
            for value, count in Counter(values).most_common(1):
                if count > 1:
                    raise ValueError(
                        f'{count} {what} {value!s:.60}: rename or remove all '
                        'but one'
                    )
    except WRONG_TYPE as error:
        raise ValueError(f'it is not in the COCO format: {error}') from error
    if classes is not None and used != list(classes):
        missing = [name for name in classes if name not in names]
        raise ValueError(
            f'{quote(missing or classes)} in metainfo.classes must be names '
            f'of its categories, in their order: {quote(names)}'
        )


def quote(names: Sequence[str]) -> str:
    """List names in quotes, the first ten of them."""
    more = f' and {len(names) - 10} more' if len(names) > 10 else ''
    return ', '.join(f"'{name!s:.60}'" for name in names[:10]) + more
