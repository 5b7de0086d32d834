"""Write what was found in the formats of the libraries."""

import colorsys
import json
import os
from pathlib import Path
from random import Random

from PIL import Image
from tqdm import tqdm

from ..datasets.coco2semantic import encode_mask
from ..utils.atomic import creating
from .layouts.label_maps import read_labels
from .samples import Found, Sample

MAPS = 'label_maps'
MARKER = 'converted.json'  # only folders that have it are replaced


def convert(found: Found, out_dir: str | os.PathLike, seed: int = 0) -> dict:
    """Write what mmpretrain, mmseg or mmdet read.

    The images stay where they are. The files name them relative to
    ``found.root``, so that both folders can be moved.

    Args:
        found (Found): The data set. Notes about objects that are left out are
            added to it.
        out_dir (str | PathLike): Folder to make; one that this has made is
            replaced.
        seed (int): The order of the images, in which classes are mixed.
            Defaults to 0.

    Returns:
        dict: ``train``, ``val`` and perhaps ``test``, the settings of data
        sets without a pipeline, and ``metainfo`` with ``classes`` and
        ``palette``.

    Raises:
        FileExistsError: If ``out_dir`` has files that this did not write.
        ValueError: If it is the user's folder, above it or in it, or if a
            label map cannot be read.
    """
    out_dir = Path(out_dir).absolute()
    _check_place(out_dir, found.root)
    write = dict(classification=_write_list, segmentation=_write_maps).get(
        found.task, _write_coco
    )
    data: dict = {}
    with creating(out_dir, replace=True) as part:
        summary = dict(layout=found.layout, task=found.task)
        (part / MARKER).write_text(json.dumps(summary), 'utf-8')
        for split, samples in found.splits.items():
            mixed = Random(seed).sample(samples, len(samples))
            settings = write(found, split, mixed, part)
            data[split] = dict(settings, data_root=str(out_dir))
    data['metainfo'] = dict(
        classes=list(found.classes), palette=make_palette(found)
    )
    return data


def _check_place(out_dir: Path, root: Path) -> None:
    """Check that no file of the user can be replaced."""
    place, root = out_dir.resolve(), root.resolve()
    if place.is_relative_to(root) or root.is_relative_to(place):
        raise ValueError(
            f'{out_dir} would be in the folder of the images, or that in it: '
            'choose another work_dir'
        )
    if out_dir.is_symlink() or (
        out_dir.exists()
        and not (out_dir / MARKER).is_file()
        and (not out_dir.is_dir() or any(out_dir.iterdir()))
    ):
        raise FileExistsError(
            f'{out_dir} has files of something else: choose another work_dir'
        )


def make_palette(found: Found) -> list[list[int]]:
    """Choose a colour for each class; the background is black.

    Args:
        found (Found): The data set.

    Returns:
        list[list[int]]: R, G and B, 0 to 255.
    """
    palette = []
    for label in range(len(found.classes)):
        # Steps by the golden ratio: no two hues are close to each other.
        hue, value = label * 0.618034 % 1, 1 - label % 3 / 5
        colour = colorsys.hsv_to_rgb(hue, 0.75, value)
        palette.append([round(255 * each) for each in colour])
    if found.classes[0] == 'background':
        palette[0] = [0, 0, 0]
    return palette


def _names(found: Found, samples: list[Sample]) -> list[str]:
    return [
        Path(os.path.relpath(sample.image, found.root)).as_posix()
        for sample in samples
    ]


def _place(found: Found) -> str:
    return str(found.root.absolute())


def _write_list(
    found: Found, split: str, samples: list[Sample], folder: Path
) -> dict:
    names = _names(found, samples)
    # A name that begins with a blank would lose it without a folder.
    lines = [
        f'./{name} {sample.label}\n'
        for name, sample in zip(names, samples, strict=True)
    ]
    (folder / f'{split}.txt').write_text(''.join(lines), 'utf-8')
    return dict(
        type='CustomDataset',
        ann_file=f'{split}.txt',
        data_prefix=dict(img_path=_place(found)),
    )


def _write_maps(
    found: Found, split: str, samples: list[Sample], folder: Path
) -> dict:
    names = _names(found, samples)
    for name, sample in tqdm(
        zip(names, samples, strict=True), split, len(names), leave=False
    ):
        assert sample.label_map
        labels = read_labels(sample.label_map, found.values or {})
        path = folder / MAPS / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
    text = ''.join(f'./{name}\n' for name in names)
    (folder / f'{split}.txt').write_text(text, 'utf-8')
    # Images have any suffix, which is a part of the names.
    return dict(
        type='BaseSegDataset',
        ann_file=f'{split}.txt',
        img_suffix='',
        seg_map_suffix='.png',
        data_prefix=dict(img_path=_place(found), seg_map_path=MAPS),
    )


def _write_coco(
    found: Found, split: str, samples: list[Sample], folder: Path
) -> dict:
    from pycocotools import mask as mask_utils

    images: list[dict] = []
    annotations: list[dict] = []
    for name, sample in zip(_names(found, samples), samples, strict=True):
        assert sample.size is not None
        width, height = sample.size
        images.append(
            dict(id=len(images), file_name=name, width=width, height=height)
        )
        for box in sample.boxes or ():
            w, h = box.right - box.left, box.bottom - box.top
            annotation = dict(
                id=len(annotations) + 1,
                image_id=images[-1]['id'],
                category_id=box.label + 1,
                bbox=[box.left, box.top, w, h],
                area=w * h,
                iscrowd=int(box.crowd),
            )
            if box.mask:
                try:
                    rle = encode_mask(box.mask, height, width)
                except ValueError as error:
                    found.notes.append(
                        f'an object is left out: {name}: {error}'
                    )
                    continue
                annotation['area'] = int(mask_utils.area(rle))
                annotation['segmentation'] = box.mask
            annotations.append(annotation)
    categories = [
        dict(id=label, name=name)
        for label, name in enumerate(found.classes, 1)
    ]
    content = dict(
        images=images, annotations=annotations, categories=categories
    )
    (folder / f'{split}.json').write_text(json.dumps(content), 'utf-8')
    return dict(
        type='CocoDataset',
        ann_file=f'{split}.json',
        data_prefix=dict(img=_place(found)),
    )
