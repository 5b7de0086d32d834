"""What was found in a user's folder."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

IGNORED = 255  # label of pixels that are not counted
TASKS = 'classification', 'segmentation', 'detection', 'instances'


class Box(NamedTuple):
    """An object, in pixels of its image.

    Attributes:
        left (float): Left side.
        top (float): Upper side.
        right (float): Right side.
        bottom (float): Lower side.
        label (int): Number of the class.
        mask (list | dict, optional): Polygons or RLE, as in COCO. Defaults to
            None.
        crowd (bool): It is neither learned nor counted. Defaults to False.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: int
    mask: Any = None
    crowd: bool = False


@dataclass
class Sample:
    """An image and its labels, those that the task has.

    Attributes:
        image (Path): The file.
        label (int, optional): Number of the class of the image.
        boxes (list[Box], optional): The objects; empty if it has none.
        label_map (Path, optional): The file with a label for each pixel;
            ``Found.values`` says how to read it.
        size (tuple[int, int], optional): Width and height, if they were read.
        split (str, optional): 'train', 'val' or 'test', if the folder says it.
    """

    image: Path
    label: int | None = None
    boxes: list[Box] | None = None
    label_map: Path | None = None
    size: tuple[int, int] | None = None
    split: str | None = None


@dataclass
class Found:
    """A data set of a user.

    Attributes:
        root (Path): The folder.
        layout (str): Name of the layout, for people.
        task (str): One of TASKS.
        classes (list[str]): Names of the labels 0, 1, ...
        splits (dict[str, list[Sample]]): 'train', 'val' and perhaps 'test'.
        notes (list[str]): What was odd and what was done about it, one line
            each.
        values (dict, optional): Value in a label map -> label. A value is a
            grey level, an index of a palette or a colour (R, G, B); values
            that are missing are ignored.
    """

    root: Path
    layout: str
    task: str
    classes: list[str]
    splits: dict[str, list[Sample]]
    notes: list[str] = field(default_factory=list)
    values: dict | None = None


@dataclass
class Reading:
    """What a reader of a layout found; as :class:`Found`, but not split."""

    layout: str
    task: str
    classes: list[str]
    samples: list[Sample]
    values: dict | None = None


class Oddities(defaultdict[str, list[str]]):
    """What was odd -> where."""

    def __init__(self):
        super().__init__(list)

    def add(self, what: str, where: object) -> None:
        """Add a file to what is odd about it."""
        self[what].append(str(where))

    def lines(self) -> list[str]:
        """Write one line for each kind."""
        return [
            f'{what}: {where[0]:.300}'
            if len(where) == 1
            else f'{what}: {len(where)}, for example {where[0]:.300}'
            for what, where in self.items()
        ]


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names of classes; numbers come first, in their order."""
    return sorted(
        set(names),
        key=lambda name: (
            (0, int(name), name) if name.isdecimal() else (1, 0, name)
        ),
    )
