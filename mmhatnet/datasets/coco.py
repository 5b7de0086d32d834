"""Checks of annotations in COCO's JSON format."""

from collections.abc import Sequence
from typing import Any

# The errors that values of other types raise.
WRONG_TYPE = AttributeError, KeyError, OverflowError, TypeError


def check_coco(content: Any, classes: Sequence[str]) -> None:
    """Check that the classes of a data set are categories of a JSON.

    mmdet numbers the classes in the order of the JSON's categories, and names
    them in the order of the data set: another order gives wrong names, and a
    class that is missing, or there twice, gives wrong numbers.

    Args:
        content (Any): The content of the JSON.
        classes (Sequence[str]): The classes of the data set.

    Raises:
        ValueError: If they do not fit.
    """
    try:
        names = [category['name'] for category in content['categories']]
    except WRONG_TYPE as error:
        raise ValueError(f'it is not in the COCO format: {error}') from error
    if [name for name in names if name in classes] != list(classes):
        missing = [name for name in classes if name not in names]
        raise ValueError(
            f'{quote(missing or classes)} in metainfo.classes must be names '
            'of its categories, each there once, in the same order: '
            f'{quote(names)}'
        )


def quote(names: Sequence[str]) -> str:
    """List names in quotes, the first ten of them."""
    more = f' and {len(names) - 10} more' if len(names) > 10 else ''
    return ', '.join(f"'{name!s:.60}'" for name in names[:10]) + more
