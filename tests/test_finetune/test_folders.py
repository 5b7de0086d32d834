"""Folders of users: what is found in them, a note, or an error of one line."""

import importlib
import json
import math
import os
import re
import shutil
import zlib
from functools import partial
from pathlib import Path

import made_folders as made
import numpy as np
import pytest
from PIL import Image

from mmhatnet.datasets.inspection import build_dataset, inspect_dataset
from mmhatnet.finetune.converting import convert
from mmhatnet.finetune.found import describe, recognize
from mmhatnet.finetune.pictures import draw_examples

BESIDE = dict(images='{}.png', masks='{}_mask.png')
SCOPES = dict(classification='mmpretrain', segmentation='mmseg')
BOMB = """<?xml version="1.0"?><!DOCTYPE bomb [<!ENTITY a "aaaa">
<!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>"""
PROGRAM = 'names: !!python/object/apply:os.system ["exit 1"]'
GROWING = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{b}: &{b} [{", ".join(9 * ["*" + a])}]\n'
    for a, b in zip('abcdefgh', 'bcdefghi', strict=True)
)
GROWING += 'names: *i\n'


def change(make, path, edit):
    """A folder in which one file or folder is changed by ``edit``."""

    def made_and_changed(root):
        make(root)
        edit(root / path)

    return made_and_changed


def write(text):
    return lambda path: made.write(path, text)


def written(name):
    return lambda root: made.write(root / name, 'x')


def rename(name):
    return lambda path: path.rename(path.with_name(name))


def link(target):
    return lambda path: path.symlink_to(target)


def soften(path):
    values = np.linspace(0, 255, made.SIZE[0]).astype(np.uint8)
    Image.fromarray(np.tile(values, (made.SIZE[1], 1))).save(path)


def each_file(edit):
    return lambda folder: [edit(path) for path in [*folder.iterdir()]]


def red(edit):
    return change(made.folders, 'red/0.png', edit)


def coco_file(edit, **options):
    return change(partial(made.coco, **options), 'annotations.json', edit)


def coco(edit, **options):
    """COCO with another content."""

    def edit_file(path):
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return coco_file(edit_file, **options)


def annotation(**values):
    """COCO with another first object."""
    return coco(
        lambda x: x['annotations'][0].update(values),
        masks='segmentation' in values,
    )


def coco_splits(root):
    """As roboflow exports it."""
    for number, folder in enumerate(('train', 'valid', 'test')):
        name = '_annotations.coco.json'
        made.coco(root / folder, json_name=name, start=100 * number)


def coco_2017(root):
    """The images and the JSON in folders of their own."""
    for number, split in enumerate(('train', 'val')):
        folder = root / f'{split}2017'
        made.coco(folder, start=100 * number)
        file = root / 'annotations' / f'instances_{split}2017.json'
        made.write(file.with_name(f'captions_{split}2017.json'), '{}')
        (folder / 'annotations.json').rename(file)


def same_names(root):
    """Two images fit to each name of the JSON."""
    made.coco(root / 'a')
    (root / 'a' / 'annotations.json').rename(root / 'annotations.json')
    made.pictures(root / 'b', start=100)


def roboflow_maps(root):
    for split in ('train', 'valid'):
        made.label_maps(root / split, **BESIDE)
    names = 'Pixel Value, Class\n0, background\n1, cat\n2, dog'
    made.write(root / 'train' / '_classes.csv', names)


def contest(root):
    """With a submission to fill."""
    made.table(root, lambda i: f'{i}.jpg,{i % 2}', 'id,label', 'train.csv')
    made.pictures(root / 'test_images', 3, 50, 't{}.png')
    made.write(root / 'sample_submission.csv', 'image_id,label\nt1,4')


def lossy(path):
    Image.open(path).save(path.with_suffix('.jpg'))
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def huge(path):
    """A header that promises 3.6 gigapixels."""
    data = bytearray(path.read_bytes())
    data[16:24] = (60000).to_bytes(4, 'big') * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')
    path.write_bytes(data)


def small(path):
    made.picture(0, size=(9, 9)).save(path)


def encoded(encoding, mark):
    def make(root):
        made.pictures(root)
        rows = [f'{i}.png{mark}{("Möwe", "Kuh")[i % 2]}' for i in range(8)]
        text = '\n'.join([f'bild{mark}art', *rows])
        (root / 'a.csv').write_bytes(text.encode(encoding))

    return make


def unicode_forms(root):
    """The name is written in another way than in the JSON, as on a Mac."""
    coco(lambda x: x['images'][0].update(file_name='e\u0301.png'))(root)
    (root / '0.png').rename(root / '\u00e9.png')


def of_system(folder):
    for name in ('.DS_Store', 'Thumbs.db', '._0.png'):
        (folder / name).write_text('x')


def splits_in_column(i):
    return f'{i};{"ab"[i % 2]};{"train" if i < 6 else "test"}'


def with_sizes(i):
    return f'{i}.png,32,24,{made.NAMES[i % 2]},4,5,14,17'


def folders(**options):
    return partial(made.folders, **options)


def classes(*names, **options):
    def make(root):
        for i, name in enumerate(names):
            made.pictures(root / name, start=100 * i, **options)

    return make


def maps(**options):
    return partial(made.label_maps, **options)


def table(*arguments):
    return lambda root: made.table(root, *arguments)


COLOURED = 'folders of classes: classification: blue green red: '
SIZES = 'filename,width,height,class,xmin,ymin,xmax,ymax'
# Layout, task, classes, the numbers of images in train, val and test, and what
# is special -> how it is made.
LAYOUTS = {
    COLOURED + '15 3 0': made.folders,
    COLOURED + '15 3 0: below': lambda root: made.folders(root / 'a' / 'b'),
    COLOURED + '18 18 18': folders(splits=('train', 'val', 'test')),
    COLOURED + '15 3 18': folders(splits=('train', 'test')),
    'folders of classes: classification: helmet mask: 12 4 0': classes(
        'helmet', 'mask'
    ),
    'folders of classes: classification: bus car train: 18 6 0': classes(
        'train', 'bus', 'car'
    ),
    'label maps: segmentation: 0 1 2: 6 2 0': made.label_maps,
    'label maps: segmentation: background foreground: 6 2 0: palette': maps(
        values=(0, 1, 255), mode='P'
    ),
    'label maps: segmentation: background foreground: 6 2 0': maps(
        values=(0, 255)
    ),
    'label maps: segmentation: 0 1 2: 6 2 0: beside': maps(**BESIDE),
    'label maps: segmentation: 1 2 3: 6 2 0: pets': maps(
        values=(1, 2, 3), masks='annotations/trimaps/{}.png'
    ),
    'label maps: segmentation: 0 1 2: 6 2 0: CamVid': maps(
        images='train/{}.png', masks='trainannot/{}.png'
    ),
    'label maps: segmentation: background cat dog: 8 8 0': roboflow_maps,
    'COCO: detection: cat dog: 6 2 0': made.coco,
    'COCO: instances: cat dog: 6 2 0': partial(made.coco, masks=True),
    'COCO: detection: cat dog: 8 8 0': coco_2017,
    'COCO: detection: cat dog: 8 8 8': coco_splits,
    'YOLO: detection: cat dog: 8 8 0': made.yolo,
    'YOLO: instances: cat dog: 8 8 0': partial(made.yolo, polygons=True),
    'YOLO: detection: cat dog: 5 3 0: lists': made.yolo_lists,
    'YOLO: detection: 0 1: 6 2 0': (
        partial(made.yolo, splits=('',), yaml=False)
    ),
    'Pascal VOC: detection: cat dog: 6 2 0': made.voc,
    'CSV: classification: 0 10: 6 2 0': (
        table(lambda i: f'{i}.png,{10 * (i % 2)}')
    ),
    'CSV: classification: a b: 4 2 2': (
        table(splits_in_column, 'id;Species;split')
    ),
    'CSV: classification: 0 1: 6 2 0': contest,
    'CSV: detection: cat dog: 6 2 0': table(with_sizes, SIZES),
    'CSV: detection: object: 6 2 0': (
        table('{},"[4, 5, 10.0, 12]"'.format, 'id,box')
    ),
}
# The error -> how it is made.
FAILS = {
    r'there are no images \(': Path.mkdir,
    'there is no ': lambda root: None,
    'is a file: give the folder that it is in': lambda root: root.write_bytes(
        b'PK'
    ),
    "all images have the class 'red'": folders(classes=['red']),
    'there is one image that': partial(made.coco, count=1),
    '8 images without labels: give folders of classes': made.pictures,
    'there are no images': partial(made.pictures, pattern='.{}.png'),
    'no images.*convert them to .jpg: a.heic': written('a.heic'),
    'no image can be used.*labels without their image, left out: 8': change(
        made.voc, 'JPEGImages', each_file(lambda x: rename(f'x{x.name}')(x))
    ),
    'names of several images, left out; write their folders': same_names,
    'of another size than their labels, left out; relabel them: 8': change(
        made.label_maps, 'images', each_file(small)
    ),
    'all label maps have the value 0 only': maps(values=[0]),
    'more than 255 different': classes('images', 'masks'),
    'save label maps as PNG': change(made.label_maps, 'masks/0.png', lossy),
    'left out: annotations.json': coco_file(truncate),
    'annotations.json is not in the COCO format': coco(
        lambda content: content['images'].append(3)
    ),
    r'annotations.json \(max.* recursion': coco_file(write('[' * 100_000)),
    'cannot be read, left out: 8, .*DOCTYPE': change(
        made.voc, 'Annotations', each_file(write(BOMB))
    ),
    'is not valid YAML': change(made.yolo, 'data.yaml', write(PROGRAM)),
    'names is not a list': change(made.yolo, 'data.yaml', write(GROWING)),
    'images for val, but none for training': folders(splits=('val',)),
    'several labels in the CSV': table(lambda i: f'{i}.png,a\n{i}.png,b'),
    'the first line of labels.csv is not a header': table(
        '{0}.png,a'.format, ''
    ),
    'are quantities, such as 0.5, but': table(lambda i: f'{i}.png,{i}.5'),
    'without a column named label, left out: labels.csv': table(
        '{0}.png,1,0'.format, 'file,cat,dog'
    ),
    'no image has an object': coco(lambda x: x['annotations'].clear()),
}
# The number of images that can be used, and the note -> how it is made.
NOTES = {
    '17: be read.*: red/0.png .cannot identify': red(write('x')),
    '17: be read.*: red/0.png .image file is truncated': red(truncate),
    '18: be read.*: red/a.png': change(made.folders, 'red/a.png', link('b')),
    '7: be read.*: 0.png .too many pixels': change(made.coco, '0.png', huge),
    '7: be read.*: Annotations/1.xml': change(
        made.voc, 'Annotations/1.xml', write(BOMB)
    ),
    '7: relabel them: masks/0.png .32x24, not 9x9': change(
        made.label_maps, 'images/0.png', small
    ),
    '7: relabel them: 0.png .32x24, not 99x24': coco(
        lambda content: content['images'][0].update(width=99)
    ),
    '7: without labels, left out: images/0.png': change(
        made.label_maps, 'masks/0.png', os.unlink
    ),
    '7: without labels, left out: JPEGImages/0.png': change(
        made.voc, 'Annotations/0.xml', os.unlink
    ),
    '16: without objects: train/images/0.png': change(
        made.yolo, 'train/labels/0.txt', os.unlink
    ),
    '8: images without labels, left out: more/x0.png': change(
        *(made.coco, 'more'),
        partial(made.pictures, count=1, start=900, pattern='x{}.png'),
    ),
    '16: lines in pixels, left out.*: train/labels/0.txt': change(
        made.yolo, 'train/labels/0.txt', write('0 40 50 20 30')
    ),
    '19: classes with one image.*: examples': change(
        made.folders, 'examples', partial(made.pictures, count=1, start=900)
    ),
    '18: empty folders: white': change(made.folders, 'white', Path.mkdir),
    '7: labels without their image, left out: masks/0.png': change(
        made.label_maps, 'images/0.png', os.unlink
    ),
    '15: labels without their image, left out: train/labels/0.txt': change(
        made.yolo, 'train/images/0.png', os.unlink
    ),
    '8: boxes of less than a pixel': annotation(bbox=[4, 5, 0, 9]),
    '8: boxes of less than.*: 0.png': annotation(bbox=[math.nan, 5, 9, 9]),
    '8: boxes that go beyond.*, cut: 0.png': annotation(bbox=[20, 5, 99, 9]),
    '8: masks of some objects only.*: 7': annotation(
        segmentation=[[4, 5, 14, 5, math.inf, 17]]
    ),
    '8: incomplete, left out: 0.png .a polygon has .* 999': annotation(
        segmentation=[[4, 5, 14, 5, 999, 17]]
    ),
    '8: not in the file, left out: .* image_id 99, ': annotation(image_id=99),
    '8: not in the file, left out: .* category_id 9': annotation(
        category_id=9
    ),
    '8: be of one photograph.*: x_aug0': lambda root: made.table(
        *(root, lambda i: f'x_aug{i}.png,{i % 2}'), pattern='x_aug{}.png'
    ),
    "24: by case only.*'Red' and 'red'": change(
        made.folders, 'Red', lambda x: made.pictures(x, 6, start=900)
    ),
    '37: in train, too.*: twin.png': change(
        *(folders(splits=('train', 'val')), 'train/red/0.png'),
        lambda x: shutil.copy(x, x.parents[2] / 'val/red/twin.png'),
    ),
    '39: add some: white': change(
        *(folders(splits=('train', 'val')), 'val/white'),
        lambda x: made.pictures(x, 3, start=900),
    ),
    '8: soft edges': change(made.label_maps, 'masks', each_file(soften)),
    '8: incomplete, left out: annotations.json, id 3': coco(
        lambda content: content['annotations'].append(3)
    ),
    r"17: cannot be used, .*: 'a\\nb.png'": red(rename('a\nb.png')),
    '17: names cannot be used, left out': red(
        lambda x: os.rename(x, os.fsencode(x) + b'\xff.png')
    ),
}
# As above, and nothing is odd.
QUIET = {
    '18: unicode and blanks': change(
        made.folders, 'red', rename(' 赤 $x$ #1')
    ),
    '8: other form of unicode': unicode_forms,
    '16: numbers in names': classes('cat', 'dog', pattern='cat ({}).png'),
    '18: loop of links': change(made.folders, 'red/again', link('..')),
    '18: files of systems': change(made.folders, 'red', of_system),
    '8: CSV after a blank line': table(
        lambda i: f'{i}.png,{i % 2}', ' \nfilename,label'
    ),
    '8: CSV in Latin 1': encoded('cp1252', ';'),
    '8: CSV in UTF-16': encoded('utf-16', '\t'),
}
# Notes that belong to the folders as they are made, or to another note.
EXPECTED = re.compile(
    'there was no split|classes without objects|'
    'images without labels, left out: JPEGImages/1.png$'
)


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


@pytest.mark.parametrize('expected', LAYOUTS)
def test_layout(expected, tmp_path):
    layout, task, classes, numbers, *_ = expected.split(': ')
    root = tmp_path / 'my photos'
    LAYOUTS[expected](root)
    before = made.listing(root)
    found = recognize(root)
    assert (found.layout, found.task) == (layout, task)
    assert found.classes == classes.split()
    splits = [len(found.splits.get(x, ())) for x in ('train', 'val', 'test')]
    assert splits == [int(number) for number in numbers.split()]
    text = describe(found)
    assert layout in text
    assert f'classes ({len(found.classes)}): ' in text
    draw_examples(found, tmp_path / 'examples.png')
    with Image.open(tmp_path / 'examples.png') as image:
        assert np.asarray(image.convert('RGB')).std() > 20
    check_converted(found, tmp_path)
    assert made.listing(root) == before


@pytest.mark.parametrize('message', FAILS)
def test_one_line(message, tmp_path):
    FAILS[message](tmp_path / 'data')
    with pytest.raises(ValueError, match=message) as error:
        recognize(tmp_path / 'data')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('expected', [*NOTES, *QUIET])
def test_note(expected, tmp_path):
    images, _, message = expected.partition(': ')
    (NOTES | QUIET)[expected](tmp_path / 'data')
    found = recognize(tmp_path / 'data')
    assert len(found.samples) == int(images)
    notes = [note for note in found.notes if not EXPECTED.match(note)]
    assert len(notes) == (expected in NOTES)
    for note in notes:
        assert re.search(message, note)
        assert f'note: {note}' in describe(found)
    draw_examples(found, tmp_path / 'examples.png')
    check_converted(found, tmp_path)
