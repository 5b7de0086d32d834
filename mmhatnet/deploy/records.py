"""Results of many images or frames in one file: JSON, COCO or CSV."""

import csv
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from ..utils.atomic import replacing

# Format -> what a file of this format adds to the name.
SUFFIXES = dict(json='.json', coco='_coco.json', csv='.csv')


class Records:
    """Results of several images, or of the frames of a video.

    Args:
        key (str): What they are of: ``'image'`` or ``'frame'``.
        classes (Sequence[str]): The names of all classes; may be empty.
    """

    def __init__(self, key: str, classes: Sequence[str]) -> None:
        self.key, self.classes = key, classes
        self._found: list[tuple[str | int, Sequence[int], dict]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, name: str | int, size: Sequence[int], result: dict) -> None:
        """Add a result.

        Args:
            name (str | int): The file, or the number of the frame.
            size (Sequence[int]): Height and width in pixels.
            result (dict): As from :meth:`OnnxModel.predict`.
        """
        self._found.append((name, size, result))

    def save(self, target: Path, formats: Collection[str]) -> None:
        """Write a file for each format, if there is a result.

        Args:
            target (Path): The files, without their ``SUFFIXES``.
            formats (Collection[str]): Keys of ``SUFFIXES``; others have no
                effect.
        """
        makers = dict(json=self._to_json, coco=self._to_coco, csv=self._to_csv)
        for name in makers.keys() & formats if self._found else ():
            with replacing(f'{target}{SUFFIXES[name]}') as part:
                # Names of files may have bytes that are no text.
                part.write_text(makers[name](), 'utf-8', 'surrogateescape')

    def _to_json(self) -> str:
        return to_json(
            {f'{self.key}s': [{self.key: n, **r} for n, _, r in self._found]}
        )

    def _to_coco(self) -> str:
        images, annotations = [], []
        for number, (name, size, result) in enumerate(self._found):
            height, width = size[:2]
            image = dict(id=number, file_name=str(name))
            images.append(dict(image, height=height, width=width))
            for found in result['objects']:
                left, top, right, bottom = found['bbox']
                box = [left, top, right - left, bottom - top]
                annotation = dict(
                    id=len(annotations) + 1,  # 0 is no object in pycocotools
                    image_id=number,
                    category_id=found['label'],
                    score=found['score'],
                    bbox=box,
                    area=found.get('area', box[2] * box[3]),
                    iscrowd=0,
                )
                if 'mask' in found:
                    annotation['segmentation'] = found['mask']
                annotations.append(annotation)
        categories = [dict(id=i, name=n) for i, n in enumerate(self.classes)]
        return to_json(
            dict(images=images, annotations=annotations, categories=categories)
        )

    def _to_csv(self) -> str:
        first = self._found[0][2]
        corners = ['x1', 'y1', 'x2', 'y2'] if 'objects' in first else []
        shares = not corners and 'share' in first['classes'][0]
        value = 'share' if shares else 'score'
        text = io.StringIO()
        write = csv.writer(text, lineterminator='\n').writerow
        write([self.key, 'class', value, *corners])
        for name, _, result in self._found:
            for found in result['objects' if corners else 'classes']:
                box = found.get('bbox', ())
                write([name, found['name'], found[value], *box])
        return text.getvalue()


def to_json(result: dict) -> str:
    """Write a result as JSON.

    Args:
        result (dict): As from :meth:`OnnxModel.predict`.

    Returns:
        str: The JSON.

    Raises:
        ValueError: If a number is NaN or infinite, as from damaged weights.
    """
    try:
        return json.dumps(result, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            'the model gives NaN or infinity: are its weights damaged, or of '
            'another model?'
        ) from error
