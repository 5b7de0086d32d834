#!/usr/bin/env python
"""Tries tools/finetune.py on data of others, for docs/custom_data.md."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from common import DOCS, ROOT, fill_page, read_json, write_json
from PIL import Image

from mmhatnet.analysis.report import markdown_table
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.finetune.plan import NAMES, TASKS

CIFAR10 = ROOT / 'data' / 'cifar10'
CROWNS = ROOT / 'data' / 'tree_crowns'
DEMO = ROOT / 'data' / 'demo'
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


def boxes_of(path: Path) -> tuple[list[dict], dict[int, list]]:
    """Images of a COCO file, and the boxes of each."""
    content = read_json(path)
    boxes: dict[int, list] = {x['id']: [] for x in content['images']}
    for object_ in content['annotations']:
        boxes[object_['image_id']].append(object_['bbox'])
    return content['images'], boxes


def crowns_voc(out: Path) -> None:
    for split in ('train', 'test'):
        shutil.copytree(CROWNS / split, out / split)
        images, boxes = boxes_of(CROWNS / 'annotations' / f'{split}.json')
        for image in images:
            root = ElementTree.Element('annotation')
            ElementTree.SubElement(root, 'filename').text = image['file_name']
            for x, y, width, height in boxes[image['id']]:
                object_ = ElementTree.SubElement(root, 'object')
                ElementTree.SubElement(object_, 'name').text = 'tree'
                box = ElementTree.SubElement(object_, 'bndbox')
                sides = dict(xmin=x, ymin=y, xmax=x + width, ymax=y + height)
                for name, value in sides.items():
                    ElementTree.SubElement(box, name).text = f'{value:.0f}'
            path = (out / split / image['file_name']).with_suffix('.xml')
            ElementTree.ElementTree(root).write(path)


def crowns_yolo(out: Path) -> None:
    for split in ('train', 'test'):
        shutil.copytree(CROWNS / split, out / split / 'images')
        images, boxes = boxes_of(CROWNS / 'annotations' / f'{split}.json')
        labels = out / split / 'labels'
        labels.mkdir()
        for image in images:
            size = image['width'], image['height']
            rows = [
                f'0 {(x + w / 2) / size[0]:.6f} {(y + h / 2) / size[1]:.6f} '
                f'{w / size[0]:.6f} {h / size[1]:.6f}\n'
                for x, y, w, h in boxes[image['id']]
            ]
            name = Path(image['file_name']).with_suffix('.txt')
            (labels / name).write_text(''.join(rows), 'utf-8')
    (out / 'data.yaml').write_text('nc: 1\nnames: [tree]\n', 'utf-8')


def shapes_roboflow(out: Path) -> None:
    for split, theirs in (('train', 'train'), ('val', 'valid')):
        shutil.copytree(DEMO / 'coco' / f'{split}2017', out / theirs)
        shutil.copy(
            DEMO / 'coco' / 'annotations' / f'instances_{split}2017.json',
            out / theirs / '_annotations.coco.json',
        )


def copy(source: Path, out: Path) -> None:
    shutil.copytree(source, out)


CLASSES, MAPS, BOXES, MASKS = NAMES
SETS = {
    'cifar10-test': Data(
        'test images of CIFAR-10',
        *(partial(copy, CIFAR10 / 'test'), 'folders', CLASSES, True),
    ),
    'digits': Data(
        'scikit-learn, `load_digits`', digits, 'folders', CLASSES, True
    ),
    'faces': Data('scikit-image, `lfw_subset`', faces, 'CSV', CLASSES, True),
    'textures': Data(
        'scikit-image, `brick`, `grass`, `gravel`',
        *(textures, 'folders in `train` and `val`', CLASSES),
    ),
    'shapes': Data(
        'demo data',
        *(partial(copy, DEMO / 'ade' / 'ADEChallengeData2016'), 'label maps'),
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


def start(name: str, folder: Path, work_dir: Path, *options: str) -> Popen:
    """Start the command with one thread."""
    return Popen(
        [
            *(sys.executable, ROOT / 'tools' / 'finetune.py', folder / name),
            *('--work-dir', work_dir, *options),
        ],
        env=os.environ | dict(OMP_NUM_THREADS='1'),
    )


def run(name: str, folder: Path, budget: str, out: Path) -> None:
    """Train both models at the same time, and record what came out.

    Raises:
        RuntimeError: If one of the commands failed.
    """
    data = SETS[name]
    if not (folder / name).exists():
        data.make(folder / name)
    options = SMALL_RESNET if data.small else RESNET
    options = tuple(f'model.{x}' for x in options + HEADS[data.task])
    sides = {
        'hatnet': ('--budget', budget),
        'resnet18': (
            *('--budget', budget, '--weights', 'none', '--no-export'),
            *('--cfg-options', *options),
        ),
    }
    record: dict = dict(budget=budget)
    started = time.monotonic()
    runs = {
        side: start(name, folder, folder / f'{name}-{side}', *options)
        for side, options in sides.items()
    }
    for side, process in runs.items():
        if process.wait():
            raise RuntimeError(f'{name}: the command of {side} failed')
        result = read_json(folder / f'{name}-{side}' / 'result.json')
        record[side] = {key: result[key] for key in KEPT}
        record[side]['seconds'] = round(time.monotonic() - started)
    write_json(out / f'{name}.json', record)


def make_table(folder: Path) -> str:
    """One row for each data set that was tried."""
    rows = []
    for name, data in SETS.items():
        if not (folder / f'{name}.json').exists():
            continue
        record = read_json(folder / f'{name}.json')
        ours, other = record['hatnet'], record['resnet18']
        count = ours['images']
        rows.append(
            {
                'data': data.source,
                'layout': data.layout,
                'images': ' + '.join(map(str, count.values())),
                'metric': TASKS[data.task].title,
                'trivial': f'{ours["baseline"]:.3g}',
                'ResNet-18': f'{other["metric"]:.3g}',
                'HAT-Net': f'{ours["metric"]:.3g}',
                'minutes': f'{ours["seconds"] / 60:.1f}',
            }
        )
    return markdown_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill the table of docs/custom_data.md with what '
        'tools/finetune.py reached on some data sets, beside ResNet-18.'
    )
    parser.add_argument(
        '--run',
        nargs='+',
        default=(),
        choices=SETS,
        metavar='NAME',
        help=f'train on these first: {", ".join(SETS)}',
    )
    parser.add_argument('--budget', default='15m', help='default: 15m')
    parser.add_argument(
        '--folder',
        type=Path,
        default=ROOT / 'work_dirs' / 'finetune',
        help='folder of data sets and results (default: work_dirs/finetune)',
    )
    args = parser.parse_args()
    for name in args.run:
        run(name, args.folder, args.budget, DOCS / 'finetune')
    table = partial(make_table, DOCS / 'finetune')
    fill_page(DOCS / 'custom_data.md', dict(finetune=table))


if __name__ == '__main__':
    with one_line_errors():
        main()
