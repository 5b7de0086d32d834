"""What was found in a user's folder."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

IGNORED = 255  # label of pixels that are not counted
SPLITS = 'train', 'val', 'test'
# What may be odd in a folder, and what is done about it.
NOTES = dict(
    file='files that cannot be read, left out',
    format='images in other formats, left out; convert them to .jpg',
    name='files whose names cannot be used, left out; rename them',
    turned='images that their EXIF rotates; check whether the labels fit',
    unlabelled='images without labels, left out',
    empty='images without labels, used as images without objects',
    outside='images outside folders of classes or splits, left out',
    alone='labels without their image, left out',
    ambiguous='names of several images, left out; write their folders, too',
    double='images or labels of the same name, of which the first counts',
    size='images of another size than their labels, left out; relabel them',
    incomplete='objects or lines that are incomplete, left out',
    ids='objects whose image or category is not in the file, left out',
    pixels='lines in pixels, left out; YOLO needs shares of width and height',
    invisible='boxes of less than a pixel in their image, left out',
    beyond='boxes that go beyond their image, cut',
    masks='masks of some objects only, which are not used',
    unused='classes without objects, left out',
    unlearned='classes without training images; add some',
    rare='classes with one image or object; add some, or leave them out',
    hollow='empty folders',
    quantity='many labels that are numbers; each is a class of its own',
    soft='values of label maps up to 255, used as classes; if they are soft '
    'edges, save the maps with 0 and 255 only',
    columns='tables without a column named label, left out',
    case='classes whose names differ by case only; are they the same?',
    names='names that do not fit the values of label maps; numbers are used',
    numbers='classes without a name in data.yaml',
    sampled='only some images were decoded, and copies were not searched',
    no_split='images that belong to no split, added to train',
    leaks='images that are in train, too, so that the score is too good',
    split='there was no split for validation; made of training images',
    copies='copies of other images, kept in one split',
    one='all images seem to be of one photograph, so the score says little',
)


class Box(NamedTuple):
    """An object, in pixels of its image."""

    left: float
    top: float
    right: float
    bottom: float
    label: Any  # a number; readers begin with a name
    mask: Any = None  # polygons or RLE of COCO; RLE when it is checked
    crowd: bool = False  # neither learned nor counted


@dataclass
class Sample:
    """An image with the labels that its task needs."""

    image: Path
    split: str | None = None  # 'train', 'val' or 'test', if the folder says it
    size: tuple[int, int] = 0, 0  # width and height, if read
    label: Any = None  # as that of a box
    boxes: list[Box] = field(default_factory=list)
    label_map: Path = Path()  # Found.values says how to read it

    @property
    def labels(self) -> set:
        """Labels of the image or its objects; empty for label maps."""
        own = set() if self.label is None else {self.label}
        return own | {box.label for box in self.boxes}


@dataclass
class Found:
    """A user's data set, as read from a folder."""

    root: Path
    layout: str  # for people
    task: str  # 'classification', 'segmentation', 'detection' or 'instances'
    samples: list[Sample]
    classes: list[str]  # names of the labels 0, 1, ...
    # Value in a label map -> label.
    values: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was odd, in lines

    @property
    def splits(self) -> dict[str, list[Sample]]:
        """The samples of 'train', 'val' and perhaps 'test'."""
        names = [x for x in SPLITS if any(s.split == x for s in self.samples)]
        return {x: [s for s in self.samples if s.split == x] for x in names}


def counted(number: int, noun: str) -> str:
    """Write a number of things, such as '1 image'."""
    return f'{number} {noun}{"" if number == 1 else "s"}'


class Oddities(defaultdict[str, list[str]]):
    """What was odd, a key of NOTES -> where."""

    def __init__(self) -> None:
        super().__init__(list)

    def add(self, what: str, where: object, why: object = '') -> None:
        """Record a place under the note that applies to it."""
        self[what].append(f'{where} ({why!s:.100})' if why else str(where))

    def lines(self) -> list[str]:
        """Write one line for each kind."""
        lines = []
        for what, where in self.items():
            many = f'{len(where)}, for example ' if len(where) > 1 else ''
            lines.append(f'{NOTES[what]}: {many}{where[0]:.300}')
        return lines
