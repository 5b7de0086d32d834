"""Folders in which something is odd: a result and a note, or one line."""

import json
import os
import re
import shutil

import made_folders as made
import pytest
from test_layouts import check_converted

from mmhatnet.finetune.found import describe, recognize
from mmhatnet.finetune.pictures import draw_examples

BOMB = """<?xml version="1.0"?><!DOCTYPE bomb [<!ENTITY a "aaaa">
<!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>"""
GROWING = (
    'a: &a [x, x, x, x, x, x, x, x, x]\n'
    + ''.join(
        f'{b}: &{b} [{", ".join(9 * ["*" + a])}]\n'
        for a, b in zip('abcdefgh', 'bcdefghi', strict=True)
    )
    + 'names: *i\n'
)
PROGRAM = 'names: !!python/object/apply:os.system ["exit 1"]'


def change(make, path, edit):
    """A folder in which one file or folder is changed by ``edit``."""

    def made_and_changed(root):
        make(root)
        edit(root / path)

    return made_and_changed


def red(edit):
    return change(made.folders, 'red/0.png', edit)


def write(make, path, text):
    return change(make, path, lambda file: file.write_text(text))


def each_file(edit):
    return lambda folder: [edit(path) for path in folder.iterdir()]


def coco(edit, **options):
    """COCO with another content."""

    def edit_file(path):
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change(
        lambda root: made.coco(root, **options), 'annotations.json', edit_file
    )


def annotation(masks=False, **values):
    """COCO with another first object."""
    return coco(lambda x: x['annotations'][0].update(values), masks=masks)


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


def lossy(root):
    photographs(root)
    for path in (root / 'masks').iterdir():
        path.rename(path.with_suffix('.jpg'))


def huge(path):
    """A header that promises 3.6 gigapixels."""
    data = bytearray(path.read_bytes())
    data[16:24] = (60000).to_bytes(4, 'big') * 2
    path.write_bytes(data)


def small(path):
    made.picture(0, size=(9, 9)).save(path)


def table(encoding, mark):
    def make(root):
        made.pictures(root, 8)
        rows = [f'{i}.png{mark}{("Möwe", "Kuh")[i % 2]}' for i in range(8)]
        text = '\n'.join([f'bild{mark}art', *rows])
        (root / 'a.csv').write_bytes(text.encode(encoding))

    return make


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


def of_system(folder):
    for name in ('.DS_Store', 'Thumbs.db', '._0.png'):
        (folder / name).write_text('x')


def rename(name):
    return lambda path: os.rename(path, os.path.join(path.parent, name))


def to_bytes(path):
    os.rename(path, os.fsencode(path) + b'\xff.png')


FAILS = {
    'empty folder': (lambda root: root.mkdir(), 'there are no images'),
    'no folder': (lambda root: None, 'there is no '),
    'archive': (lambda root: root.write_bytes(b'PK'), 'is a file: unpack it'),
    'one class': (
        lambda root: made.folders(root, classes=['red']),
        "all images are in the folder or class 'red'",
    ),
    'one image': (lambda root: made.coco(root, 1), 'there is one image that'),
    'no labels': (
        lambda root: made.pictures(root, 4),
        '4 images without labels: give folders of classes',
    ),
    'hidden files only': (
        lambda root: made.pictures(root, 3, pattern='.{}.png'),
        'there are no images',
    ),
    'photographs of telephones': (
        lambda root: made.write(root / 'a.heic', 'x'),
        'no images.*other formats, left out; convert them to .jpg: a.heic',
    ),
    'labels of other images': (
        change(
            made.voc,
            'JPEGImages',
            each_file(
                lambda path: path.rename(path.with_name(f'x{path.name}'))
            ),
        ),
        'no image can be used.*labels without their image, left out: 8',
    ),
    'same names': (
        same_names,
        'names of several images, left out; write their folders',
    ),
    'all label maps of another size': (
        change(made.label_maps, 'images', each_file(small)),
        'images of another size than their labels, left out; relabel them: 8',
    ),
    'label maps without classes': (
        lambda root: made.label_maps(root, values=[0]),
        'all label maps have the value 0 only',
    ),
    'photographs as label maps': (photographs, 'more than 255 different'),
    'JPEG as label maps': (lossy, 'save label maps as PNG'),
    'broken JSON': (
        change(made.coco, 'annotations.json', truncate),
        'cannot be read, left out: annotations.json',
    ),
    'JSON of wrong types': (
        coco(lambda content: content['annotations'].append(3)),
        'annotations.json is not in the COCO format',
    ),
    'deep JSON': (
        write(made.coco, 'annotations.json', '[' * 100_000),
        'cannot be read, left out: annotations.json',
    ),
    'XML bombs': (
        change(
            made.voc, 'Annotations', each_file(lambda x: x.write_text(BOMB))
        ),
        'cannot be read, left out: 8, .*DOCTYPE',
    ),
    'program in YAML': (
        write(made.yolo, 'data.yaml', PROGRAM),
        'data.yaml is not valid YAML',
    ),
    'names in YAML that grow': (
        write(made.yolo, 'data.yaml', GROWING),
        'data.yaml: names is not a list of the classes',
    ),
    'val without train': (
        lambda root: made.folders(root, splits=('val',)),
        'images for val, but none for training',
    ),
    'two labels of an image': (
        lambda root: made.table(root, lambda i: f'{i}.png,a\n{i}.png,b'),
        'has several labels in the CSV',
    ),
    'CSV without header': (
        lambda root: made.table(root, '{0}.png,a'.format, header=None),
        'the first line of labels.csv is no header',
    ),
    'CSV with a column for each class': (
        lambda root: made.table(root, '{0}.png,1,0'.format, 'file,cat,dog'),
        'tables without a column named label, left out: labels.csv',
    ),
    'no object': (
        coco(lambda content: content['annotations'].clear()),
        'no image has an object',
    ),
}

# Notes that belong to the folders as they are made, or to another note.
EXPECTED = re.compile(
    'a split is made|classes without objects|'
    'images without labels, left out: JPEGImages/1.png$'
)
UNREADABLE = 'cannot be read, left out: {}'.format
# Name -> how it is made, what a note says ('' for no note about it), and the
# number of images that can be used.
WORKS = {
    'image that is none': (
        red(lambda path: path.write_text('x')),
        *(UNREADABLE('red/0.png'), 17),
    ),
    'empty image': (
        red(lambda path: path.write_bytes(b'')),
        *(UNREADABLE('red/0.png'), 17),
    ),
    'truncated image': (
        red(truncate),
        *(UNREADABLE(r'red/0.png \(image file is truncated'), 17),
    ),
    'image of 3.6 gigapixels': (
        change(made.coco, '0.png', huge),
        *(UNREADABLE('0.png'), 7),
    ),
    'label map of another size': (
        change(made.label_maps, 'images/0.png', small),
        r'relabel them: masks/0.png \(32x24, not 9x9',
        7,
    ),
    'image without label map': (
        change(made.label_maps, 'masks/0.png', os.unlink),
        'images without labels, left out: images/0.png',
        7,
    ),
    'label map without image': (
        change(made.label_maps, 'images/0.png', os.unlink),
        'labels without their image, left out: masks/0.png',
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
        coco(lambda content: content['images'][0].update(width=99)),
        r'relabel them: 0.png \(32x24, not 99x24',
        7,
    ),
    'boxes without area': (
        annotation(bbox=[4, 5, 0, 9]),
        *('boxes of less than a pixel in their image, left out: 0.png', 8),
    ),
    'boxes outside': (
        annotation(bbox=[20, 5, 99, 9]),
        *('boxes that go beyond their image, cut: 0.png', 8),
    ),
    'boxes that are no numbers': (
        annotation(bbox=[float('nan'), 5, 9, 9]),
        *('boxes of less than a pixel in their image, left out: 0.png', 8),
    ),
    'polygons that are no numbers': (
        annotation(True, segmentation=[[4, 5, 14, 5, float('inf'), 17]]),
        *('masks of some objects only, which are not used: 7', 8),
    ),
    'objects of no image': (
        annotation(image_id=99),
        *('incomplete, left out: annotations.json, id 0', 8),
    ),
    'one XML bomb': (
        write(made.voc, 'Annotations/1.xml', BOMB),
        *(UNREADABLE('Annotations/1.xml'), 7),
    ),
    'names that differ by case': (case, "by case only.*'Red' and 'red'", 24),
    'copies in train and val': (twins, 'in train, too.*: twin.png', 37),
    'unicode and blanks': (unicode_names, '', 18),
    'other form of unicode': (unicode_forms, '', 8),
    'loop of links': (loop, '', 18),
    'link to nothing': (
        change(made.folders, 'red/a.png', lambda x: x.symlink_to('nothing')),
        *(UNREADABLE('red/a.png'), 18),
    ),
    'line break in a name': (
        red(rename('a\nb.png')),
        *(r"files to rename, left out: 'a\\nb.png'", 17),
    ),
    'name that is no text': (red(to_bytes), 'files to rename, left out', 17),
    'files of systems': (change(made.folders, 'red', of_system), '', 18),
    'CSV in Latin 1': (table('cp1252', ';'), '', 8),
    'CSV in UTF-16': (table('utf-16', '\t'), '', 8),
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
