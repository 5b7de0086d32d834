import importlib
import json

import made_folders as made
import numpy as np
import pytest
from PIL import Image

from mmhatnet.datasets.inspection import build_dataset, inspect_dataset
from mmhatnet.finetune.converting import convert
from mmhatnet.finetune.found import describe, draw_examples, recognize

SCOPES = dict(classification='mmpretrain', segmentation='mmseg')


def coco_splits(root, masks=False, **names):
    for number, (folder, name) in enumerate(names.items()):
        made.coco(root / folder, 8, name, masks, start=100 * number)


def coco_2017(root):
    """The images and the JSON in folders of their own."""
    for number, split in enumerate(('train', 'val')):
        content = made.coco(root / f'{split}2017', start=100 * number)
        (root / f'{split}2017' / 'annotations.json').unlink()
        file = root / 'annotations' / f'instances_{split}2017.json'
        made.write(file, json.dumps(content))
        made.write(file.with_name(f'captions_{split}2017.json'), '{}')


def boxes_in_rows(i):
    return f'pictures/{i}.png,4,5,14,17,{("cat", "dog")[i % 2]}'


# Name -> how it is made, the layout, the task, the classes, and the numbers of
# images in train, val and test.
CASES = {
    'folders': (
        made.folders,
        *('folders of classes', 'classification', 'blue green red'),
        (15, 3, 0),
    ),
    'folders in a folder': (
        lambda root: made.folders(root / 'data' / 'images'),
        *('folders of classes', 'classification', 'blue green red'),
        (15, 3, 0),
    ),
    'folders with splits': (
        lambda root: made.folders(root, splits=('train', 'val', 'test')),
        *('folders of classes', 'classification', 'blue green red'),
        (18, 18, 18),
    ),
    'folders like CIFAR-10': (
        lambda root: made.folders(root, splits=('train', 'test')),
        *('folders of classes', 'classification', 'blue green red'),
        (15, 3, 18),
    ),
    'grey label maps': (
        made.label_maps,
        *('label maps', 'segmentation', '0 1 2'),
        (6, 2, 0),
    ),
    'label maps with a palette': (
        lambda root: made.label_maps(root, values=(0, 1, 255), mode='P'),
        *('label maps', 'segmentation', 'background foreground'),
        (6, 2, 0),
    ),
    'masks of 0 and 255': (
        lambda root: made.label_maps(root, values=(0, 255)),
        *('label maps', 'segmentation', 'background foreground'),
        (6, 2, 0),
    ),
    'label maps beside the images': (
        lambda root: [
            path.rename(root / 'images' / f'{path.stem}_mask.png')
            for path in (made.label_maps(root) / 'masks').iterdir()
        ],
        *('label maps', 'segmentation', '0 1 2'),
        (6, 2, 0),
    ),
    'COCO boxes': (
        made.coco,
        *('COCO', 'detection', 'cat dog'),
        (6, 2, 0),
    ),
    'COCO masks': (
        lambda root: made.coco(root, masks=True),
        *('COCO', 'instances', 'cat dog'),
        (6, 2, 0),
    ),
    'COCO 2017': (
        coco_2017,
        *('COCO', 'detection', 'cat dog'),
        (8, 8, 0),
    ),
    "roboflow's COCO": (
        lambda root: coco_splits(
            root,
            **dict.fromkeys(
                ('train', 'valid', 'test'), '_annotations.coco.json'
            ),
        ),
        *('COCO', 'detection', 'cat dog'),
        (8, 8, 8),
    ),
    "roboflow's YOLO": (
        made.yolo,
        *('YOLO', 'detection', 'cat dog'),
        (8, 8, 0),
    ),
    'YOLO polygons': (
        lambda root: made.yolo(root, polygons=True),
        *('YOLO', 'instances', 'cat dog'),
        (8, 8, 0),
    ),
    'YOLO without names': (
        lambda root: made.yolo(root, splits=('',), yaml=False),
        *('YOLO', 'detection', '0 1'),
        (6, 2, 0),
    ),
    'Pascal VOC': (
        made.voc,
        *('Pascal VOC', 'detection', 'cat dog'),
        (6, 2, 0),
    ),
    'CSV of labels': (
        lambda root: made.table(root, lambda i: f'{i}.png,{10 * (i % 2)}'),
        *('CSV', 'classification', '0 10'),
        (6, 2, 0),
    ),
    'CSV with semicolons and splits': (
        lambda root: made.table(
            root,
            lambda i: f'{i};{"ab"[i % 2]};{"train" if i < 6 else "test"}',
            header='id;Species;split',
        ),
        *('CSV', 'classification', 'a b'),
        (4, 2, 2),
    ),
    'CSV with a column for each class': (
        lambda root: made.table(
            root,
            lambda i: f'{i}.png,{i % 2},{1 - i % 2}',
            header='filename, Cat, Dog',
            name='train/_classes.csv',
        ),
        *('CSV', 'classification', 'Cat Dog'),
        (6, 2, 0),
    ),
    'CSV of boxes': (
        lambda root: made.table(
            root,
            lambda i: f'{i}.png,32,24,{("cat", "dog")[i % 2]},4,5,14,17',
            header='filename,width,height,class,xmin,ymin,xmax,ymax',
        ),
        *('CSV', 'detection', 'cat dog'),
        (6, 2, 0),
    ),
    'CSV of boxes without header': (
        lambda root: made.table(root, boxes_in_rows, header=None),
        *('CSV', 'detection', 'cat dog'),
        (6, 2, 0),
    ),
    'CSV of boxes in a list': (
        lambda root: made.table(
            root, lambda i: f'{i},"[4, 5, 10.0, 12]"', header='image_id,bbox'
        ),
        *('CSV', 'detection', 'object'),
        (6, 2, 0),
    ),
}


def check_converted(found, folder):
    """Read what was written with the library of the task."""
    scope = SCOPES.get(found.task, 'mmdet')
    importlib.import_module(f'{scope}.datasets')
    data = convert(found, folder / 'converted', 0)
    for split, samples in found.splits.items():
        settings = dict(data[split], metainfo=data['metainfo'])
        inspection = inspect_dataset(
            build_dataset(settings, scope),
            label_maps=found.task == 'segmentation',
            masks=found.task == 'instances',
        )
        assert not inspection.problems
        assert inspection.images == len(samples)
    return data


@pytest.mark.parametrize('name', CASES)
def test_layout(name, tmp_path):
    make, layout, task, classes, numbers = CASES[name]
    root = tmp_path / 'my photos'
    make(root)
    before = made.listing(root)
    found = recognize(root)
    assert (found.layout, found.task) == (layout, task)
    assert found.classes == classes.split()
    splits = [
        len(found.splits.get(split, ())) for split in ('train', 'val', 'test')
    ]
    assert tuple(splits) == numbers
    text = describe(found)
    assert layout in text
    assert f'{len(found.classes)} classes: ' in text
    draw_examples(found, tmp_path / 'examples.png')
    with Image.open(tmp_path / 'examples.png') as image:
        assert np.asarray(image.convert('RGB')).std() > 20
    check_converted(found, tmp_path)
    assert made.listing(root) == before
