"""Results of many images or frames in one file: JSON, COCO or CSV."""

import csv
import io
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..utils.atomic import replacing


@contextmanager
def recording(
    key: str, target: Path, metadata: dict, formats: Collection[str]
) -> Iterator[list[tuple]]:
    """Write results when all are there, or after Ctrl-C or an error.

    They are those of each ``'image'`` or ``'frame'``, the key. The files are
    named by the target and the ``SUFFIXES`` of the formats.

    Yields:
        list[tuple]: To be filled with names of files or numbers of frames,
        shapes of images, and results.
    """
    found: list[tuple] = []
    try:
        yield found
    finally:
        for name in MAKERS.keys() & formats if found else ():
            with replacing(f'{target}{SUFFIXES[name]}') as part:
                text = MAKERS[name](key, metadata, found)
                # Names of files may have bytes that are not text.
                part.write_text(text, 'utf-8', 'surrogateescape')


def to_json(result: dict) -> str:
    """Write a result as JSON.

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


def _make_json(key: str, metadata: dict, found: list[tuple]) -> str:
    return to_json({f'{key}s': [{key: n, **result} for n, _, result in found]})


def _make_coco(key: str, metadata: dict, found: list[tuple]) -> str:
    annotations: list[dict] = []
    images = [
        dict(id=number, file_name=str(name), height=shape[0], width=shape[1])
        for number, (name, shape, _) in enumerate(found)
    ]
    for number, (*_, result) in enumerate(found):
        for each in result['objects']:
            left, top, right, bottom = each['bbox']
            annotation = dict(
                id=len(annotations) + 1,  # pycocotools takes 0 for none
                image_id=number,
                category_id=each['label'],
                score=each['score'],
                bbox=[left, top, right - left, bottom - top],
                area=each.get('area', (right - left) * (bottom - top)),
                iscrowd=0,
            )
            if 'mask' in each:
                annotation['segmentation'] = each['mask']
            annotations.append(annotation)
    names = enumerate(metadata['classes'])
    categories = [dict(id=label, name=name) for label, name in names]
    return to_json(
        dict(images=images, annotations=annotations, categories=categories)
    )


def _make_csv(key: str, metadata: dict, found: list[tuple]) -> str:
    value = 'share' if metadata['kind'] == 'segmentation' else 'score'
    classifies = metadata['kind'] in ('classification', 'segmentation')
    corners = () if classifies else ('x1', 'y1', 'x2', 'y2')
    text = io.StringIO()
    rows = csv.writer(text, lineterminator='\n')
    rows.writerow([key, 'class', value, *corners])
    for name, _, result in found:
        for each in result['classes' if classifies else 'objects']:
            box = each.get('bbox', ())
            rows.writerow([name, each['name'], each[value], *box])
    return text.getvalue()


# Format -> what writes it, and what its file adds to the name.
MAKERS = dict(json=_make_json, coco=_make_coco, csv=_make_csv)
SUFFIXES = dict(json='.json', coco='_coco.json', csv='.csv')
