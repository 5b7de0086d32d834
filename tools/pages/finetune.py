#!/usr/bin/env python
"""Fills docs/custom_data.md: tools/finetune.py and ResNet-18 on some data."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import numpy as np
from common import DOCS, ROOT, fill_page, read_json, write_json
from PIL import Image

from mmhatnet.analysis.report import markdown_table
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.finetune.plan import NAMES, TASKS
from mmhatnet.utils.atomic import creating, write_text

CIFAR10 = ROOT / 'data' / 'cifar10'
CROWNS = ROOT / 'data' / 'tree_crowns'
DEMO = ROOT / 'data' / 'demo'
FOLDER = ROOT / 'work_dirs' / 'finetune'
RECORDS = DOCS / 'finetune'
BUDGET = '5m'  # of each training
copy = partial(shutil.copytree, dirs_exist_ok=True)
# Of the results of the command.
KEPT = (
    *('metric', 'baseline', 'metrics', 'images', 'split', 'steps', 'ended'),
    *('export', 'plan', 'versions', 'commit', 'changes', 'machine'),
)


class Data(NamedTuple):
    """A data set, and how its folder is made."""

    source: str  # for people
    make: Callable[[Path], object]
    layout: str
    task: str
    small: bool = False  # whether the images have at most 48 pixels


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def digits(out: Path) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    pairs = zip(data.images, data.target, strict=True)
    for number, (image, label) in enumerate(pairs):
        save(image * 15, out / str(label) / f'{number:04}.png')


def faces(out: Path) -> None:
    from skimage.data import lfw_subset

    rows = ['filename,label']
    for number, image in enumerate(lfw_subset()):
        save(image * 255, out / 'images' / f'{number:03}.png')
        # The documentation of lfw_subset: the first half are faces.
        label = 'face' if number < 100 else 'other'
        rows.append(f'images/{number:03}.png,{label}')
    (out / 'labels.csv').write_text('\n'.join(rows), 'utf-8')


def textures(out: Path) -> None:
    """Tiles of 64x64; those of the right quarter are for tests."""
    from skimage import data

    for name in ('brick', 'grass', 'gravel'):
        image = getattr(data, name)()
        for y in range(0, 512, 64):
            for x in range(0, 512, 64):
                split = 'train' if x < 384 else 'val'
                tile = image[y : y + 64, x : x + 64]
                save(tile, out / split / name / f'{y}_{x}.png')


def voc(image: dict, boxes: list) -> str:
    objects = (
        f'<object><name>tree</name><bndbox><xmin>{x:.0f}</xmin>'
        f'<ymin>{y:.0f}</ymin><xmax>{x + w:.0f}</xmax>'
        f'<ymax>{y + h:.0f}</ymax></bndbox></object>'
        for x, y, w, h in boxes
    )
    name = f'<filename>{image["file_name"]}</filename>'
    return f'<annotation>{name}{"".join(objects)}</annotation>'


def yolo(image: dict, boxes: list) -> str:
    width, height = image['width'], image['height']
    return ''.join(
        f'0 {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} '
        f'{w / width:.6f} {h / height:.6f}\n'
        for x, y, w, h in boxes
    )


def crowns(
    out: Path, images: str, labels: str, suffix: str, write: Callable
) -> None:
    """Tree crowns with a file of labels for each image."""
    for split in ('train', 'test'):
        copy(CROWNS / split, out / split / images)
        content = read_json(CROWNS / 'annotations' / f'{split}.json')
        boxes: dict[int, list] = {}
        for tree in content['annotations']:
            boxes.setdefault(tree['image_id'], []).append(tree['bbox'])
        for image in content['images']:
            path = out / split / labels / image['file_name']
            text = write(image, boxes.get(image['id'], []))
            write_text(path.with_suffix(suffix), text)


def crowns_voc(out: Path) -> None:
    crowns(out, '', '', '.xml', voc)


def crowns_yolo(out: Path) -> None:
    crowns(out, 'images', 'labels', '.txt', yolo)
    write_text(out / 'data.yaml', 'nc: 1\nnames: [tree]\n')


def shapes_roboflow(out: Path) -> None:
    for split, theirs in (('train', 'train'), ('val', 'valid')):
        copy(DEMO / 'coco' / f'{split}2017', out / theirs)
        shutil.copy(
            DEMO / 'coco' / 'annotations' / f'instances_{split}2017.json',
            out / theirs / '_annotations.coco.json',
        )


CLASSES, MAPS, BOXES, MASKS = NAMES
SETS = {
    'cifar10-test': Data(
        'test images of CIFAR-10',
        partial(copy, CIFAR10 / 'test'),
        'folders',
        CLASSES,
        small=True,
    ),
    'digits': Data(
        'scikit-learn, `load_digits`', digits, 'folders', CLASSES, small=True
    ),
    'faces': Data(
        'scikit-image, `lfw_subset`', faces, 'CSV', CLASSES, small=True
    ),
    'textures': Data(
        'scikit-image, `brick`, `grass`, `gravel`',
        textures,
        'folders in `train` and `val`',
        CLASSES,
    ),
    'shapes': Data(
        'demo data',
        partial(copy, DEMO / 'ade' / 'ADEChallengeData2016'),
        'label maps',
        MAPS,
    ),
    'crowns-coco': Data('tree crowns', partial(copy, CROWNS), 'COCO', BOXES),
    'crowns-voc': Data('tree crowns', crowns_voc, 'Pascal VOC', BOXES),
    'crowns-yolo': Data('tree crowns', crowns_yolo, 'YOLO', BOXES),
    'shapes-roboflow': Data(
        'demo data', shapes_roboflow, "COCO in roboflow's folders", MASKS
    ),
}
# mm's ResNet-18, which is torchvision's, instead of HAT-Net.
RESNET = (
    'backbone._delete_=True',
    'backbone.type=mmpretrain.ResNet',
    'backbone.depth=18',
)
# Images of 32 pixels have to be halved less often.
SMALL_RESNET = (
    'backbone._delete_=True',
    'backbone.type=mmpretrain.ResNet_CIFAR',
    'backbone.depth=18',
    'backbone.strides=2,2,2,2',
)
HEADS = {
    CLASSES: ('head.in_channels=512',),
    MAPS: ('neck.in_channels=64,128,256', 'backbone.out_indices=0,1,2'),
    BOXES: ('neck.in_channels=64,128,256,512', 'backbone.out_indices=0,1,2,3'),
}
HEADS[MASKS] = HEADS[BOXES]


def run(name: str) -> None:
    """Train both models at the same time, and record what came out.

    Raises:
        ValueError: If one of the commands failed.
    """
    data, record = SETS[name], dict(budget=BUDGET)
    if not (FOLDER / name).exists():
        with creating(FOLDER / name) as folder:
            data.make(folder)
    settings = (SMALL_RESNET if data.small else RESNET) + HEADS[data.task]
    options = '--weights', 'none', '--no-export', '--cfg-options'
    options += tuple(f'model.{x}' for x in settings)
    started = time.monotonic()
    command = sys.executable, ROOT / 'tools' / 'finetune.py', FOLDER / name
    command += '--budget', BUDGET, '--work-dir'
    env = os.environ | dict(OMP_NUM_THREADS='1')
    runs = {}
    with ExitStack() as stack:  # waits for one when the other fails
        for side, more in dict(hatnet=(), resnet18=options).items():
            process = Popen(
                [*command, FOLDER / f'{name}-{side}', *more], env=env
            )
            runs[side] = stack.enter_context(process)
        for side, process in runs.items():
            if process.wait():
                raise ValueError(f'{name}: the command of {side} failed')
            result = read_json(FOLDER / f'{name}-{side}' / 'result.json')
            record[side] = {key: result[key] for key in KEPT}
            record[side]['seconds'] = round(time.monotonic() - started)
    write_json(RECORDS / f'{name}.json', record)


def make_row(data: Data, record: dict) -> dict[str, str]:
    ours, other = record['hatnet'], record['resnet18']
    return {
        'data': data.source,
        'layout': data.layout,
        'images': ' + '.join(map(str, ours['images'].values())),
        'metric': TASKS[data.task].title,
        'trivial': f'{ours["baseline"]:.3g}',
        'ResNet-18': f'{other["metric"]:.3g}',
        'HAT-Net': f'{ours["metric"]:.3g}',
        'minutes': f'{ours["seconds"] / 60:.1f}',
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--run',
        nargs='+',
        choices=SETS,
        default=(),
        metavar='NAME',
        help=f'train on these first: {", ".join(SETS)}',
    )
    for name in parser.parse_args().run:
        run(name)
    rows = [
        make_row(data, read_json(RECORDS / f'{name}.json'))
        for name, data in SETS.items()
    ]
    fill_page(DOCS / 'custom_data.md', dict(finetune=markdown_table(rows)))


if __name__ == '__main__':
    with one_line_errors():
        main()
