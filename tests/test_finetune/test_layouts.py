import importlib
import json
import os
from pathlib import Path

import made_folders as made
import numpy as np
import pytest
from PIL import Image

from mmhatnet.datasets.inspection import build_dataset, inspect_dataset
from mmhatnet.finetune.converting import convert
from mmhatnet.finetune.found import describe, draw_examples, recognize
from mmhatnet.finetune.layouts.label_maps import read_labels

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


def rename(root, **names):
    for name, new in names.items():
        (root / name).rename(root / new)


def beside(root):
    """Label maps in the folder of the images."""
    made.label_maps(root)
    for path in (root / 'masks').iterdir():
        path.rename(root / 'images' / f'{path.stem}_mask.png')


def pets(root):
    """Like the pets of Oxford."""
    made.label_maps(root, values=(1, 2, 3), where='{}/trimaps/{}.png')
    rename(root / 'images', trimaps='../pictures')
    rename(root, masks='annotations')


def camvid(root):
    made.label_maps(root)
    rename(root, images='train', masks='trainannot')


def roboflow_maps(root):
    beside(root / 'train')
    beside(root / 'valid')
    names = 'Pixel Value, Class\n0, background\n1, cat\n2, dog'
    made.write(root / 'train' / '_classes.csv', names)


def contest(root):
    """With a submission to fill."""
    made.table(root, lambda i: f'{i}.jpg,{i % 2}', 'id,label', 'train.csv')
    made.pictures(root / 'test_images', 3, 50, 't{}.png')
    made.write(root / 'sample_submission.csv', 'image_id,label\nt1,4')


def helmets(root):
    """The names of classes may be those of label maps."""
    made.pictures(root / 'helmet', 8)
    made.pictures(root / 'mask', 8, 10)


def splits_in_column(i):
    return f'{i};{"ab"[i % 2]};{"train" if i < 6 else "test"}'


def with_sizes(i):
    return f'{i}.png,32,24,{("cat", "dog")[i % 2]},4,5,14,17'


ROBOFLOW = dict.fromkeys(('train', 'valid', 'test'), '_annotations.coco.json')
COLOURED = 'folders of classes: classification: blue green red: '
# Name -> how it is made; the layout, the task, the classes, and the numbers of
# images in train, val and test.
CASES = {
    'folders': (made.folders, COLOURED + '15 3 0'),
    'folders in a folder': (
        lambda root: made.folders(root / 'data' / 'images'),
        COLOURED + '15 3 0',
    ),
    'folders with splits': (
        lambda root: made.folders(root, splits=('train', 'val', 'test')),
        COLOURED + '18 18 18',
    ),
    'folders like CIFAR-10': (
        lambda root: made.folders(root, splits=('train', 'test')),
        COLOURED + '15 3 18',
    ),
    'helmet and mask': (
        helmets,
        'folders of classes: classification: helmet mask: 12 4 0',
    ),
    'grey': (made.label_maps, 'label maps: segmentation: 0 1 2: 6 2 0'),
    'palette': (
        lambda root: made.label_maps(root, values=(0, 1, 255), mode='P'),
        'label maps: segmentation: background foreground: 6 2 0',
    ),
    '0 and 255': (
        lambda root: made.label_maps(root, values=(0, 255)),
        'label maps: segmentation: background foreground: 6 2 0',
    ),
    'beside': (beside, 'label maps: segmentation: 0 1 2: 6 2 0'),
    'pets': (pets, 'label maps: segmentation: 1 2 3: 6 2 0'),
    'CamVid': (camvid, 'label maps: segmentation: 0 1 2: 6 2 0'),
    "roboflow's maps": (
        roboflow_maps,
        'label maps: segmentation: background cat dog: 8 8 0',
    ),
    'boxes': (made.coco, 'COCO: detection: cat dog: 6 2 0'),
    'masks': (
        lambda root: made.coco(root, masks=True),
        'COCO: instances: cat dog: 6 2 0',
    ),
    'COCO 2017': (coco_2017, 'COCO: detection: cat dog: 8 8 0'),
    "roboflow's COCO": (
        lambda root: coco_splits(root, **ROBOFLOW),
        'COCO: detection: cat dog: 8 8 8',
    ),
    "roboflow's YOLO": (made.yolo, 'YOLO: detection: cat dog: 8 8 0'),
    'polygons': (
        lambda root: made.yolo(root, polygons=True),
        'YOLO: instances: cat dog: 8 8 0',
    ),
    'YOLO without names': (
        lambda root: made.yolo(root, splits=('',), yaml=False),
        'YOLO: detection: 0 1: 6 2 0',
    ),
    'VOC': (made.voc, 'Pascal VOC: detection: cat dog: 6 2 0'),
    'CSV': (
        lambda root: made.table(root, lambda i: f'{i}.png,{10 * (i % 2)}'),
        'CSV: classification: 0 10: 6 2 0',
    ),
    'CSV with semicolons and splits': (
        lambda root: made.table(root, splits_in_column, 'id;Species;split'),
        'CSV: classification: a b: 4 2 2',
    ),
    'contest': (contest, 'CSV: classification: 0 1: 6 2 0'),
    'CSV of boxes': (
        lambda root: made.table(
            root, with_sizes, 'filename,width,height,class,xmin,ymin,xmax,ymax'
        ),
        'CSV: detection: cat dog: 6 2 0',
    ),
    'CSV of boxes in a list': (
        lambda root: made.table(
            root, '{},"[4, 5, 10.0, 12]"'.format, 'id,box'
        ),
        'CSV: detection: object: 6 2 0',
    ),
}


def check_converted(found, folder):
    """Read what was written with the library of the task."""
    scope = SCOPES.get(found.task, 'mmdet')
    importlib.import_module(f'{scope}.datasets')
    data = convert(found, folder / 'converted', 0)
    for split, samples in found.splits.items():
        settings = dict(data[split], metainfo=data['metainfo'])
        inspection = inspect_dataset(build_dataset(settings, scope))
        assert not inspection.problems
        assert inspection.images == len(samples)
    return data


@pytest.mark.parametrize('name', CASES)
def test_layout(name, tmp_path):
    make, expected = CASES[name]
    layout, task, classes, numbers = expected.split(': ')
    root = tmp_path / 'my photos'
    make(root)
    before = made.listing(root)
    found = recognize(root)
    assert (found.layout, found.task) == (layout, task)
    assert found.classes == classes.split()
    splits = [len(found.splits.get(x, ())) for x in ('train', 'val', 'test')]
    assert splits == [int(number) for number in numbers.split()]
    text = describe(found)
    assert layout in text
    assert f'{len(found.classes)} classes: ' in text
    draw_examples(found, tmp_path / 'examples.png')
    with Image.open(tmp_path / 'examples.png') as image:
        assert np.asarray(image.convert('RGB')).std() > 20
    check_converted(found, tmp_path)
    assert made.listing(root) == before


def boxes_of(root):
    found = recognize(root)
    samples = [s for part in found.splits.values() for s in part]
    return {
        sample.image.stem: [
            (*box[:4], found.classes[box.label]) for box in sample.boxes
        ]
        for sample in samples
    }


def test_boxes_are_the_same_in_each_layout(tmp_path):
    """The boxes of :mod:`made_folders`, but for YOLO, which has shares."""
    made.coco(tmp_path / 'coco')
    made.voc(tmp_path / 'voc')
    made.table(tmp_path / 'csv', boxes_in_rows, 'file,x1,y1,x2,y2,class')
    expected = {
        str(i): [(4, 5, 14, 17, ('cat', 'dog')[i % 2])] for i in range(8)
    }
    for layout in ('coco', 'voc', 'csv'):
        assert boxes_of(tmp_path / layout) == expected
    made.yolo(tmp_path / 'yolo', splits=('train',))
    for i, boxes in boxes_of(tmp_path / 'yolo').items():
        left, top, right, bottom, name = boxes[0]
        found = np.array([left, top, right, bottom])
        np.testing.assert_allclose(found, [3.2, 4.8, 16, 14.4])
        assert name == ('cat', 'dog')[int(i) % 2]


def test_converted_masks(tmp_path):
    made.coco(tmp_path / 'in', masks=True)
    data = check_converted(recognize(tmp_path / 'in'), tmp_path)
    ann_file = Path(data['train']['data_root'], data['train']['ann_file'])
    content = json.loads(ann_file.read_text())
    for each in content['annotations']:
        assert each['bbox'] == [4, 5, 10, 12]
        assert each['segmentation'] == [[4, 5, 14, 5, 14, 17]]
        assert 50 < each['area'] < 70  # of the triangle, not of the box
    assert [c['name'] for c in content['categories']] == ['cat', 'dog']


def test_polygons_of_corners_are_boxes(tmp_path):
    content = made.coco(tmp_path)
    for each in content['annotations']:
        each['segmentation'] = [[4, 5, 14, 5, 14, 17, 4, 17]]
    made.write(tmp_path / 'annotations.json', json.dumps(content))
    assert recognize(tmp_path).task == 'detection'


@pytest.mark.parametrize(
    ('values', 'names', 'classes', 'mapped'),
    [
        ((0, 1, 2), None, '0 1 2', {0: 0, 1: 1, 2: 2}),
        ((0, 1, 2), 'sky sea land', 'sky sea land', {0: 0, 1: 1, 2: 2}),
        ((0, 1, 2), 'sea land', 'background sea land', {0: 0, 1: 1, 2: 2}),
        ((1, 2), 'sea land', 'sea land', {1: 0, 2: 1}),
        ((0, 1, 255), 'a b c', 'a b c', {0: 0, 1: 1, 2: 2}),
        ((0, 128, 255), None, '0 128 255', {0: 0, 128: 1, 255: 2}),
        ((0, 60, 90), 'a b c', 'a b c', {0: 0, 60: 1, 90: 2}),
        ((7, 9, 255), None, '7 9', {7: 0, 9: 1}),
    ],
)
def test_values_of_label_maps(values, names, classes, mapped, tmp_path):
    made.label_maps(tmp_path / 'in', values=values)
    if names:
        made.write(tmp_path / 'in' / 'classes.txt', '\n'.join(names.split()))
    found = recognize(tmp_path / 'in')
    assert found.classes == classes.split()
    assert found.values == mapped
    check_converted(found, tmp_path)
    for sample in found.splits['train']:
        raw = np.asarray(Image.open(sample.label_map))
        expected = np.vectorize(lambda v: mapped.get(v, 255))(raw)
        name = f'label_maps/images/{sample.image.name}.png'
        written = np.asarray(Image.open(tmp_path / 'converted' / name))
        np.testing.assert_array_equal(written, expected)


def recolour(root, colours, suffix='.png'):
    """Replace numbers in label maps by colours."""
    for path in (root / 'masks').iterdir():
        labels = np.asarray(Image.open(path))
        path.unlink()
        image = Image.fromarray(np.array(colours, np.uint8)[labels])
        image.save(path.with_suffix(suffix), quality=95)


@pytest.mark.parametrize(
    'line', ['{n},{r},{g},{b}', '{n}:{r},{g},{b}::', '{n} {r} {g} {b}']
)
def test_coloured_label_maps(line, tmp_path):
    """With tables such as those of Kaggle and CVAT."""
    colours = {'sky': (0, 0, 0), 'big tree': (0, 128, 0), 'car': (64, 0, 128)}
    made.label_maps(tmp_path / 'in')
    recolour(tmp_path / 'in', list(colours.values()))
    assert recognize(tmp_path / 'in').classes == ['0', '#008000', '#400080']
    lines = [
        line.format(n=n, r=r, g=g, b=b) for n, (r, g, b) in colours.items()
    ]
    made.write(tmp_path / 'in' / 'colours.txt', '\n'.join(['# x', *lines]))
    found = recognize(tmp_path / 'in')
    assert found.classes == list(colours)
    sample = found.splits['train'][0]
    shown = np.asarray(Image.open(sample.label_map))
    labels = read_labels(sample.label_map, found.values)
    expected = np.array(list(colours.values()))[labels]
    np.testing.assert_array_equal(shown, expected)


def test_lists_of_voc_and_difficult_objects(tmp_path):
    made.voc(tmp_path / 'in')
    folder = tmp_path / 'in' / 'ImageSets' / 'Main'
    made.write(folder / 'train.txt', '\n'.join('012345'))
    made.write(folder / 'val.txt', '6 1\n7 -1\n')
    hard = made.VOC.format(name='7.png', label='dog', difficult=1)
    made.write(tmp_path / 'in' / 'Annotations' / '7.xml', hard)
    found = recognize(tmp_path / 'in')
    val = found.splits['val']
    assert [sample.image.stem for sample in val] == ['6', '7']
    assert [box.crowd for s in val for box in s.boxes] == [False, True]
    check_converted(found, tmp_path)


def test_rotated_photographs(tmp_path):
    """EXIF exchanges width and height when an image is read."""
    made.yolo(tmp_path, splits=('',))
    exif = Image.Exif()
    for i, turn in enumerate((6, 3)):
        exif[0x0112] = turn
        made.picture(i).save(tmp_path / 'images' / f'{i}.png', exif=exif)
    found = recognize(tmp_path)
    sizes = {
        sample.image.stem: sample.size
        for part in found.splits.values()
        for sample in part
    }
    assert sizes['0'] == (24, 32)
    assert sizes['1'] == (32, 24)
    notes = [note for note in found.notes if 'EXIF' in note]
    assert len(notes) == 1
    assert notes[0].endswith(os.path.join('images', '1.png'))
