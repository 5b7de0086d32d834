"""What was found in a user's folder."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

IGNORED = 255  # label of pixels that are not counted
# What may be odd in a folder, and what is done about it.
NOTES = dict(
    file='files that cannot be read, left out',
    format='images in other formats, left out; convert them to .jpg',
    name='files to rename, left out',
    turned='images that are rotated when they are read, as their EXIF says; '
    'check whether the labels fit',
    unlabelled='images without labels, left out',
    empty='images without labels, taken as empty',
    outside='images outside folders of classes or splits, left out',
    alone='labels without their image, left out',
    ambiguous='names that several images have, left out; write their '
    'folders, too',
    double='images or labels of the same name, of which the first counts',
    size='images that have another size than their labels, left out; label '
    'them again',
    incomplete='objects or lines that are incomplete, left out',
    invisible='boxes of less than a pixel in their image, left out',
    beyond='boxes that go beyond their image, cut',
    masks='masks of some objects only, which are not used',
    unused='classes without objects, left out',
    unlearned='classes without an image for training; add some, or move them '
    'from val',
    columns='tables without a column named label, left out',
    case='classes whose names differ by case only; give them one name if '
    'they are the same',
    names='names that do not fit the values of the label maps, so numbers '
    'are used',
    numbers='classes without a name in data.yaml',
    sampled='only some images were decoded to find damaged ones, and copies '
    'were not searched by their look',
    no_split='images that belong to no split, added to train',
    leaks='images that are in train, too, so that the score is too good; '
    'remove them from one',
    split='a split is made of the images for training',
    copies='copies of other images, kept in one split',
    one='all images seem to come from one photograph, so the score says '
    'little',
)


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

    @property
    def labels(self) -> set[int]:
        """Labels of the image or its objects; empty for label maps."""
        own = set() if self.label is None else {self.label}
        return own | {box.label for box in self.boxes or ()}


@dataclass
class Reading:
    """What a reader of a layout found; as :class:`Found`, but not split."""

    layout: str
    task: str
    classes: list[str]
    samples: list[Sample]
    values: dict[int, int] | None = None


@dataclass
class Found:
    """A data set of a user.

    Attributes:
        root (Path): The folder.
        layout (str): Name of the layout, for people.
        task (str): 'classification', 'segmentation', 'detection' or
            'instances'.
        classes (list[str]): Names of the labels 0, 1, ...
        splits (dict[str, list[Sample]]): 'train', 'val' and perhaps 'test'.
        notes (list[str]): What was odd and what was done about it, one line
            each.
        values (dict[int, int], optional): Value in a label map -> label.
            Others are ignored.
    """

    root: Path
    layout: str
    task: str
    classes: list[str]
    splits: dict[str, list[Sample]]
    notes: list[str] = field(default_factory=list)
    values: dict[int, int] | None = None


class Oddities(defaultdict[str, list[str]]):
    """What was odd, a key of NOTES -> where."""

    def __init__(self):
        super().__init__(list)

    def add(self, what: str, where: object, why: object = '') -> None:
        """Add a place to what is odd about it."""
        self[what].append(f'{where} ({why!s:.100})' if why else str(where))

    def lines(self) -> list[str]:
        """Write one line for each kind."""
        lines = []
        for what, where in self.items():
            many = f'{len(where)}, for example ' if len(where) > 1 else ''
            lines.append(f'{NOTES[what]}: {many}{where[0]:.300}')
        return lines


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names of classes; numbers come first, in their order."""

    def key(name: str) -> tuple:
        number = name.isdecimal()
        return not number, int(name) if number else 0, name

    return sorted(set(names), key=key)
