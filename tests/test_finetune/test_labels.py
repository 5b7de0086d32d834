"""The labels that arrive in the libraries, in each layout."""

import json
import os
from pathlib import Path

import made_folders as made
import numpy as np
import pytest
from PIL import Image
from pycocotools.mask import area
from test_folders import SIZES, check_converted, table, with_sizes

from mmhatnet.finetune.converting import make_palette
from mmhatnet.finetune.found import recognize
from mmhatnet.finetune.layouts.label_maps import read_labels


@pytest.mark.skipif(os.name == 'nt', reason='chmod is different on Windows')
def test_read_only_folder(tmp_path):
    root = made.folders(tmp_path / 'data')
    for path in (root, *root.rglob('*')):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        check_converted(recognize(root), tmp_path)
    finally:
        for path in (root, *root.rglob('*')):
            path.chmod(0o755)


def yolo_in_pixels(root):
    """The usual box, in the shares of YOLO."""
    made.yolo(root, splits=('train',))
    for i, file in enumerate(sorted(root.glob('train/labels/*'))):
        file.write_text(f'{i % 2} {9 / 32} {11 / 24} {10 / 32} 5e-1')


@pytest.mark.parametrize(
    'make',
    [
        *(made.coco, made.voc, yolo_in_pixels, table(with_sizes, SIZES)),
        table(
            lambda i: f'pictures/{i}.png,{made.NAMES[i % 2]},4,5,10,12',
            'file,class,x,y,w,h',
        ),
    ],
)
def test_boxes_are_the_same_in_each_layout(make, tmp_path):
    make(tmp_path)
    found = recognize(tmp_path)
    assert len(found.samples) == 8
    for sample in found.samples:
        (box,) = sample.boxes
        np.testing.assert_allclose(box[:4], made.BOX)
        assert box.label == int(sample.image.stem) % 2


def test_converted_masks(tmp_path):
    made.coco(tmp_path / 'in', masks=True)
    data = check_converted(recognize(tmp_path / 'in'), tmp_path)
    ann_file = Path(data['train']['data_root'], data['train']['ann_file'])
    content = json.loads(ann_file.read_text())
    for each in content['annotations']:
        assert each['bbox'] == [4, 5, 10, 12]
        # Of the triangle, not of the box.
        assert each['area'] == area(each['segmentation'])
        assert 50 < each['area'] < 70
    assert [c['name'] for c in content['categories']] == ['cat', 'dog']


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


@pytest.mark.parametrize(
    'line', ['{n},{r},{g},{b}', '{n}:{r},{g},{b}::', '{n} {r} {g} {b}']
)
def test_coloured_label_maps(line, tmp_path):
    """With tables such as those of Kaggle and CVAT."""
    colours = {'sky': (0, 0, 0), 'big tree': (0, 128, 0), 'car': (64, 0, 128)}
    shown = np.array([*colours.values()], np.uint8)
    made.label_maps(tmp_path)
    for path in (tmp_path / 'masks').iterdir():
        Image.fromarray(shown[np.asarray(Image.open(path))]).save(path)
    assert recognize(tmp_path).classes == ['#000000', '#008000', '#400080']
    lines = [
        line.format(n=n, r=r, g=g, b=b) for n, (r, g, b) in colours.items()
    ]
    made.write(tmp_path / 'colours.txt', '\n'.join(['# x', *lines]))
    found = recognize(tmp_path)
    assert found.classes == [*colours]
    assert make_palette(found) == shown.tolist()
    path = found.samples[0].label_map
    labels = read_labels(path, found.values)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), shown[labels])


def test_lists_of_voc_and_difficult_objects(tmp_path):
    root = made.voc(tmp_path / 'in')
    lists = root / 'ImageSets' / 'Main'
    made.write(lists / 'train.txt', '\n'.join('012345'))
    made.write(lists / 'val.txt', '6 1\n7 -1\n')
    hard = made.VOC.format(name='7.png', label='dog', difficult=1)
    made.write(root / 'Annotations' / '7.xml', hard)
    found = recognize(root)
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
    sizes = {sample.image.stem: sample.size for sample in found.samples}
    assert (sizes['0'], sizes['1']) == ((24, 32), (32, 24))
    (note,) = (note for note in found.notes if 'EXIF' in note)
    assert note.endswith(os.path.join('images', '1.png'))
