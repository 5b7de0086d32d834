"""Write what was found in the formats of the libraries."""

import json
import os
from pathlib import Path
from random import Random

import numpy as np
from matplotlib.colors import hsv_to_rgb
from PIL import Image
from tqdm import tqdm

from ..utils.atomic import creating
from .layouts.label_maps import COLOURED, read_labels, to_colour
from .samples import Found, Sample

MAPS = 'label_maps'
MARKER = 'converted.json'  # only folders that have it are replaced


def convert(found: Found, out_dir: str | os.PathLike, seed: int = 0) -> dict:
    """Write what mmpretrain, mmseg or mmdet read.

    The images stay where they are. The files name them relative to
    ``found.root``, so that both folders can be moved.

    Args:
        found (Found): The data set.
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
    check_apart(out_dir, found.root)
    _check_place(out_dir)
    write = dict(
        classification=_write_labels, segmentation=_write_label_maps
    ).get(found.task, _write_coco)
    data: dict = {}
    with creating(out_dir, replace=True) as part:
        summary = dict(layout=found.layout, task=found.task)
        (part / MARKER).write_text(json.dumps(summary), 'utf-8')
        for split, samples in found.splits.items():
            named = {
                sample.image.relative_to(found.root).as_posix(): sample
                for sample in Random(seed).sample(samples, len(samples))
            }
            data[split] = write(found, named, part / split)
            data[split]['data_root'] = str(out_dir)
    data['metainfo'] = dict(
        classes=list(found.classes), palette=make_palette(found)
    )
    return data


def check_apart(out_dir: Path, folder: Path) -> None:
    """Check that results are not taken for images, nor replace them.

    ValueError if one folder is inside the other.
    """
    place, root = out_dir.resolve(), folder.resolve()
    if place.is_relative_to(root) or root.is_relative_to(place):
        raise ValueError(
            'the results cannot be inside the folder of the images, or the '
            f'reverse: give --work-dir, for example ../work_dirs/{root.name}'
        )


def _check_place(out_dir: Path) -> None:
    """Check that no file of the user would be overwritten."""
    ours = (out_dir / MARKER).is_file() and not out_dir.is_symlink()
    empty = out_dir.is_dir() and not any(out_dir.iterdir())
    if os.path.lexists(out_dir) and not ours and not empty:
        raise FileExistsError(
            f'{out_dir} has other files: choose another --work-dir'
        )


def make_palette(found: Found) -> list[list[int]]:
    """Choose a colour, RGB, for each class; the background is black."""
    labels = np.arange(len(found.classes))
    # Steps by the golden ratio: no two hues are close to each other.
    hues, values = labels * 0.618034 % 1, 1 - labels % 3 / 5
    colours = hsv_to_rgb(np.stack([hues, 0.75 + 0 * hues, values], 1))
    if found.classes[0] == 'background':
        colours[0] = 0
    palette = (255 * colours).round().astype(int)
    for value, label in found.values.items():
        if max(found.values) >= COLOURED:  # the user's own colours
            palette[label] = to_colour(value)
    return palette.tolist()


def _write_labels(found: Found, named: dict[str, Sample], path: Path) -> dict:
    # A name that begins with a blank would lose it without a folder.
    lines = [f'./{name} {sample.label}\n' for name, sample in named.items()]
    path.with_suffix('.txt').write_text(''.join(lines), 'utf-8')
    return dict(
        type='CustomDataset',
        ann_file=f'{path.name}.txt',
        data_prefix=dict(img_path=str(found.root.absolute())),
    )


def _write_label_maps(
    found: Found, named: dict[str, Sample], path: Path
) -> dict:
    text = ''.join(f'./{name}\n' for name in named)
    path.with_suffix('.txt').write_text(text, 'utf-8')
    for name, sample in tqdm(named.items(), path.name, leave=False):
        file = path.with_name(MAPS) / f'{name}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        labels = read_labels(sample.label_map, found.values)
        Image.fromarray(labels).save(file)
    images = str(found.root.absolute())
    return dict(
        type='BaseSegDataset',
        ann_file=f'{path.name}.txt',
        data_prefix=dict(img_path=images, seg_map_path=MAPS),
        img_suffix='',  # images have any suffix, which is a part of the names
        seg_map_suffix='.png',
    )


def _write_coco(found: Found, named: dict[str, Sample], path: Path) -> dict:
    from pycocotools.mask import area

    images: list[dict] = []
    annotations: list[dict] = []
    for number, (name, sample) in enumerate(named.items()):
        width, height = sample.size
        image = dict(id=number, file_name=name, width=width, height=height)
        images.append(image)
        for box in sample.boxes:
            w, h = box.right - box.left, box.bottom - box.top
            each = dict(
                id=len(annotations) + 1,
                image_id=number,
                category_id=box.label + 1,
                bbox=[box.left, box.top, w, h],
                area=int(area(box.mask)) if box.mask else w * h,
                iscrowd=int(box.crowd),
            )
            mask = dict(segmentation=box.mask) if box.mask else {}
            annotations.append(each | mask)
    categories = [
        dict(id=label, name=name)
        for label, name in enumerate(found.classes, 1)
    ]
    content = dict(
        images=images, annotations=annotations, categories=categories
    )
    path.with_suffix('.json').write_text(json.dumps(content), 'utf-8')
    return dict(
        type='CocoDataset',
        ann_file=f'{path.name}.json',
        data_prefix=dict(img=str(found.root.absolute())),
    )
