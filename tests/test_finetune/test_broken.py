"""Folders in which something is odd: a result and a note, or one line."""

import json
import os
import re
import shutil

import made_folders as made
import pytest
from test_layouts import check_converted

from mmhatnet.finetune.found import describe, draw_examples, recognize

BOMB = """<?xml version="1.0"?><!DOCTYPE bomb [<!ENTITY a "aaaa">
<!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>"""


def change(make, path, edit):
    """A folder in which one file is changed by ``edit``, or deleted."""

    def made_and_changed(root):
        make(root)
        edit(root / path)

    return made_and_changed


def edit_json(edit):
    def changed(path):
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return changed


def one_class(root):
    made.folders(root, classes=['red'])


def same_names(root):
    """Two images fit to each name of the JSON."""
    made.coco(root / 'a')
    (root / 'a' / 'annotations.json').rename(root / 'annotations.json')
    made.pictures(root / 'b', 8, 100)


def loop(root):
    made.folders(root)
    (root / 'red' / 'again').symlink_to(root, target_is_directory=True)


def case(root):
    made.folders(root)
    made.pictures(root / 'Red', 6, 900)


def twins(root):
    made.folders(root, splits=('train', 'val'))
    shutil.copy(root / 'train/red/0.png', root / 'val/red/twin.png')


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def photographs(root):
    made.pictures(root / 'images', 4)
    made.pictures(root / 'masks', 4, 50)


def huge(path):
    """A header that promises 2 gigapixels."""
    data = bytearray(path.read_bytes())
    data[16:24] = (60000).to_bytes(4, 'big') * 2
    path.write_bytes(data)


def in_latin(root):
    made.pictures(root, 8)
    rows = [f'{i}.png;{("Möwe", "Kuh")[i % 2]}' for i in range(8)]
    (root / 'a.csv').write_bytes(
        '\n'.join(['bild;art', *rows]).encode('cp1252')
    )


def in_utf16(root):
    made.pictures(root, 8)
    rows = [f'{i}.png\t{("Möwe", "Kuh")[i % 2]}' for i in range(8)]
    text = '\n'.join(['filename\tlabel', *rows])
    (root / 'a.csv').write_bytes(text.encode('utf-16'))


def unicode_names(root):
    made.folders(root / 'mes données')
    (root / 'mes données/red').rename(root / 'mes données/ 赤 $x$ #1')
    (root / 'mes données/blue/0.png').rename(
        root / 'mes données/blue/ é %.png'
    )


def unicode_forms(root):
    """The name is written in another way than in the JSON, as on a Mac."""
    content = made.coco(root)
    content['images'][0]['file_name'] = 'e\u0301.png'
    (root / '0.png').rename(root / '\u00e9.png')
    (root / 'annotations.json').write_text(json.dumps(content))


FAILS = {
    'empty folder': (lambda root: root.mkdir(), 'there are no images'),
    'no folder': (lambda root: None, 'there is no '),
    'archive': (lambda root: root.write_bytes(b'PK'), 'is a file: unpack it'),
    'one class': (one_class, "all images are in the folder or class 'red'"),
    'one image': (
        lambda root: made.coco(root, 1),
        'there is one image that can be used',
    ),
    'no labels': (
        lambda root: made.pictures(root, 4),
        '4 images without labels: give folders of classes',
    ),
    'labels without images': (
        change(
            made.coco,
            '',
            lambda root: [path.unlink() for path in root.glob('*.png')],
        ),
        'there are no images',
    ),
    'labels of other images': (
        change(
            made.voc,
            'JPEGImages',
            lambda path: [
                image.rename(path / f'x{image.name}')
                for image in path.iterdir()
            ],
        ),
        'no image can be used.*labels without their image, left out: 8',
    ),
    'same names': (same_names, 'names that several images have, left out'),
    'all label maps of another size': (
        change(
            made.label_maps,
            'images',
            lambda path: [
                made.picture(0, size=(9, 9)).save(image)
                for image in path.iterdir()
            ],
        ),
        'label maps that have another size than their image, left out: 8',
    ),
    'label maps without classes': (
        lambda root: made.label_maps(root, values=[0]),
        'all label maps have the value 0 only',
    ),
    'photographs as label maps': (photographs, 'more than 255 different'),
    'broken JSON': (
        change(made.coco, 'annotations.json', lambda path: truncate(path)),
        'JSON files that cannot be read: annotations.json',
    ),
    'JSON of wrong types': (
        change(
            made.coco,
            'annotations.json',
            edit_json(lambda content: content['annotations'].append(3)),
        ),
        'annotations.json is not in the COCO format',
    ),
    'deep JSON': (
        change(
            made.coco,
            'annotations.json',
            lambda path: path.write_text('[' * 100_000),
        ),
        'JSON files that cannot be read',
    ),
    'XML bombs': (
        change(
            made.voc,
            'Annotations',
            lambda path: [xml.write_text(BOMB) for xml in path.iterdir()],
        ),
        'XML files that cannot be read, left out: 8, .*DOCTYPE',
    ),
    'program in YAML': (
        change(
            made.yolo,
            'data.yaml',
            lambda path: path.write_text(
                'names: !!python/object/apply:os.system ["exit 1"]'
            ),
        ),
        'data.yaml is not valid YAML',
    ),
    'val without train': (
        lambda root: made.folders(root, splits=('val',)),
        'images for val, but none for training',
    ),
    'two labels of an image': (
        lambda root: made.table(root, lambda i: f'{i}.png,a\n{i}.png,b'),
        'has several labels in the CSV',
    ),
    'names in YAML that grow': (
        change(
            made.yolo,
            'data.yaml',
            lambda path: path.write_text(
                'a: &a [x, x, x, x, x, x, x, x, x]\n'
                + ''.join(
                    f'{b}: &{b} [{", ".join(9 * ["*" + a])}]\n'
                    for a, b in zip('abcdefgh', 'bcdefghi', strict=True)
                )
                + 'names: *i\n'
            ),
        ),
        'data.yaml: names is not a list of the classes',
    ),
    'no object': (
        change(
            made.coco,
            'annotations.json',
            edit_json(lambda content: content['annotations'].clear()),
        ),
        'no image has an object',
    ),
    'hidden files only': (
        lambda root: made.pictures(root, 3, pattern='.{}.png'),
        'there are no images',
    ),
    'photographs of telephones': (
        lambda root: made.write(root / 'a.heic', 'x'),
        'there are no images.*.heic files, left out; convert them',
    ),
}

# Notes that belong to the folders as they are made, or to another note.
EXPECTED = re.compile(
    'a split is made|a validation split|classes without objects|'
    'images without labels, left out: JPEGImages/1.png$'
)
# Name -> how it is made, what a note says ('' for no note about it), and the
# number of images that can be used.
WORKS = {
    'image that is none': (
        change(made.folders, 'red/0.png', lambda p: p.write_text('x')),
        r'cannot be read, left out: red/0.png',
        17,
    ),
    'empty image': (
        change(made.folders, 'red/0.png', lambda p: p.write_bytes(b'')),
        r'cannot be read, left out: red/0.png',
        17,
    ),
    'truncated image': (
        change(made.folders, 'red/0.png', truncate),
        r'cannot be read, left out: red/0.png \(image file is truncated',
        17,
    ),
    'image of 3.6 gigapixels': (
        change(made.coco, '0.png', huge),
        r'cannot be read, left out: 0.png',
        7,
    ),
    'label map of another size': (
        change(
            made.label_maps,
            'images/0.png',
            lambda path: made.picture(0, size=(9, 9)).save(path),
        ),
        'another size than their image, left out: masks/0.png, 32x24 and not',
        7,
    ),
    'image without label map': (
        change(made.label_maps, 'masks/0.png', os.unlink),
        'images without label map, left out: images/0.png',
        7,
    ),
    'label map without image': (
        change(made.label_maps, 'images/0.png', os.unlink),
        'label maps without image, left out: masks/0.png',
        7,
    ),
    'images without XML': (
        change(made.voc, 'Annotations/0.xml', os.unlink),
        'images without labels, left out: JPEGImages/0.png',
        7,
    ),
    'images without text': (
        change(made.yolo, 'train/labels/0.txt', os.unlink),
        'images without labels, taken as empty: train/images/0.png',
        16,
    ),
    'text without image': (
        change(made.yolo, 'train/images/0.png', os.unlink),
        'labels without their image, left out: train/labels/0.txt',
        15,
    ),
    'image of another size than in the JSON': (
        change(
            made.coco,
            'annotations.json',
            edit_json(lambda content: content['images'][0].update(width=99)),
        ),
        'another size than their labels say, left out; label them again: '
        '0.png, 32x24, not 99x24',
        7,
    ),
    'boxes without area': (
        change(
            made.coco,
            'annotations.json',
            edit_json(
                lambda content: content['annotations'][0].update(
                    bbox=[4, 5, 0, 9]
                )
            ),
        ),
        'boxes of less than a pixel in their image, left out: 0.png',
        8,
    ),
    'boxes outside': (
        change(
            made.coco,
            'annotations.json',
            edit_json(
                lambda content: content['annotations'][0].update(
                    bbox=[20, 5, 99, 9]
                )
            ),
        ),
        'boxes that go beyond their image, cut: 0.png',
        8,
    ),
    'boxes that are no numbers': (
        change(
            made.coco,
            'annotations.json',
            edit_json(
                lambda content: content['annotations'][0].update(
                    bbox=[float('nan'), 5, 9, 9]
                )
            ),
        ),
        'boxes of less than a pixel in their image, left out: 0.png',
        8,
    ),
    'polygons that are no numbers': (
        change(
            lambda root: made.coco(root, masks=True),
            'annotations.json',
            edit_json(
                lambda content: content['annotations'][0].update(
                    segmentation=[[4, 5, 14, 5, float('inf'), 17]]
                )
            ),
        ),
        'masks of some objects only, which are not used: 7',
        8,
    ),
    'objects of no image': (
        change(
            made.coco,
            'annotations.json',
            edit_json(
                lambda content: content['annotations'][0].update(image_id=99)
            ),
        ),
        'objects without their image or category, left out',
        8,
    ),
    'one XML bomb': (
        change(
            made.voc, 'Annotations/1.xml', lambda path: path.write_text(BOMB)
        ),
        'XML files that cannot be read, left out: Annotations/1.xml',
        7,
    ),
    'names that differ by case': (case, "by case only.*'Red' and 'red'", 24),
    'copies in train and val': (twins, 'in train, too.*: twin.png', 37),
    'unicode and blanks': (unicode_names, '', 18),
    'other form of unicode': (unicode_forms, '', 8),
    'loop of links': (loop, '', 18),
    'link to nothing': (
        change(
            made.folders,
            'red/link.png',
            lambda path: path.symlink_to('nothing.png'),
        ),
        'links that lead nowhere, left out: red/link.png',
        18,
    ),
    'line break in a name': (
        change(
            made.folders,
            'red/0.png',
            lambda path: path.rename(path.parent / 'a\nb.png'),
        ),
        r"files to rename, left out: 'a\\nb.png'",
        17,
    ),
    'name that is no text': (
        change(
            made.folders,
            'red/0.png',
            lambda path: os.rename(path, os.fsencode(path) + b'\xff.png'),
        ),
        'files to rename, left out',
        17,
    ),
    'files of systems': (
        change(
            made.folders,
            'red',
            lambda path: [
                (path / name).write_text('x')
                for name in ('.DS_Store', 'Thumbs.db', '._0.png')
            ],
        ),
        '',
        18,
    ),
    'CSV in Latin 1': (in_latin, '', 8),
    'CSV in UTF-16': (in_utf16, '', 8),
}


@pytest.mark.parametrize('name', FAILS)
def test_one_line(name, tmp_path):
    make, message = FAILS[name]
    make(tmp_path / 'data')
    with pytest.raises(ValueError, match=message) as error:
        recognize(tmp_path / 'data')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', WORKS)
def test_note(name, tmp_path):
    make, message, images = WORKS[name]
    make(tmp_path / 'data')
    found = recognize(tmp_path / 'data')
    assert sum(map(len, found.splits.values())) == images
    notes = [note for note in found.notes if not EXPECTED.match(note)]
    if message:
        assert any(re.search(message, note) for note in notes), notes
    assert len(notes) == bool(message)
    assert 'note: ' in describe(found) or not found.notes
    draw_examples(found, tmp_path / 'examples.png')
    check_converted(found, tmp_path)


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
