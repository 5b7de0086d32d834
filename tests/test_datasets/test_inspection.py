"""Whatever is wrong with the data is found, and named by its file."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers import DEMOS, TOOLS, call_tool, open_config
from PIL import Image

from mmhatnet.engine.checks import check_data, inspect_data

SEMANTIC = DEMOS['Semantic Segmentation']
INSTANCES = DEMOS['Instance Segmentation']
CLASSIFIER = DEMOS['Image Classification']
FILES = {
    SEMANTIC: 'ade/*/images/training/*.jpg',
    CLASSIFIER: 'imagenet/train/*/*',
    INSTANCES: 'coco/train2017/*.jpg',
}
MAPS = 'ade/*/annotations/training/*.png'
JSON = 'coco/annotations/instances_train2017.json'


@pytest.fixture
def folder(demo_folder, tmp_path, monkeypatch):
    """A copy of the demo data, to be damaged; the current folder."""
    shutil.copytree(demo_folder / 'data', tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'data' / 'demo'


def inspect(name):
    """All that is found in the training data of a demo."""
    cfg = open_config(f'demo/{name}.py')
    return next(iter(inspect_data(cfg, ('train',)).values()))


def assert_found(name, message):
    """It is found in seconds before a training, and by the tool."""
    with pytest.raises(ValueError, match=message):
        check_data(open_config(f'demo/{name}.py'), ('train',))
    (line,) = inspect(name).problems
    assert re.search(message, line)


@pytest.mark.parametrize('name', DEMOS.values())
def test_good_data(name, folder):
    found = inspect(name)
    assert (found.problems, found.notes) == ([], [])
    assert found.images == (240 if name == CLASSIFIER else 8)
    cfg = open_config(f'demo/{name}.py')
    assert check_data(cfg, ('train', 'val', 'test')) == []


def test_damaged_image(folder):
    path = sorted(folder.glob(FILES[INSTANCES]))[3]
    path.write_bytes(path.read_bytes()[:-200])
    (line,) = inspect(INSTANCES).problems
    assert re.search(f'{path.name}.*truncated', line)


@pytest.mark.parametrize('name', FILES)
def test_image_turned_by_exif(name, folder):
    """The libraries turn images, but no labels, which a square hides."""
    exif = Image.Exif()
    paths = sorted(folder.glob(FILES[name]))
    for path, exif[0x0112] in zip(paths[:3], (1, 3, 6), strict=True):
        with Image.open(path) as image:
            image.convert('RGB').save(path, 'jpeg', exif=exif)
    found = inspect(name)
    assert found.problems == []
    if name == CLASSIFIER:  # its label is that of the image
        assert found.notes == []
        return
    assert found.notes[0].startswith('2 images are rotated ')
    with Image.open(path) as image:
        image.resize((64, 48)).save(path, exif=exif)
    assert_found(name, '48x64 pixels, but|but the image has 48x64')


def test_no_images(folder):
    """A training would wait for one forever."""
    for path in folder.glob(FILES[SEMANTIC]):
        path.rename(path.with_suffix('.JPG'))
    assert_found(SEMANTIC, r'^data/.*: no images \*\.jpg \(img_suffix')


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda x: x[:-4], '64x60 pixels, but the image has 64x64'),
        (lambda x: x.astype(np.uint16) + 256, 'has one channel of 8 bits'),
        (lambda x: x * 0 + 8, r'labels \[7\], but there are 7 classes'),
        (None, 'there is no such file'),
    ],
)
def test_label_map(change, reason, folder):
    path = sorted(folder.glob(MAPS))[0]
    labels = np.array(Image.open(path))
    path.unlink()
    if change:
        Image.fromarray(change(labels)).save(path)
    assert_found(SEMANTIC, f'data/demo/.*{path.name}: .*{reason}')


def test_masks_of_0_and_255(folder):
    """255 is ignored: a training would learn the background."""
    mask = np.repeat(np.uint8([[0], [255]]), 32, 0).repeat(64, 1)
    for path in folder.glob(MAPS):
        Image.fromarray(mask).save(path)
    assert_found(SEMANTIC, 'only the values 0 and 255, .* 255 for disk')
    mask[0] = 3  # one object among them is enough
    Image.fromarray(mask).save(path)
    assert inspect(SEMANTIC).problems == []


def _add_disk(content):
    content['categories'].append(dict(id=0, name='disk'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c.update(annotations=[]), 'no images with labels'),
        (lambda c: c.update(categories=[5]), 'not in the COCO format'),
        (lambda c: c['images'][0].pop('width'), "KeyError: 'width'"),
        (_add_disk, "'cross' in .* each there once, .*'disk', 'square'"),
        (
            lambda c: c['categories'][0].update(name='dog'),
            "'disk' in metainfo.classes must be .*'dog', 'square'",
        ),
        (lambda c: c['categories'].reverse(), "order: 'cross', 'ring'"),
        (lambda c: c['images'][7].update(file_name='a'), 'a: there is no'),
    ],
)
def test_coco(change, message, folder):
    """A training would end in numpy, or give the classes wrong names."""
    content = json.loads((folder / JSON).read_text())
    change(content)
    (folder / JSON).write_text(json.dumps(content))
    assert_found(INSTANCES, f'^data/demo/coco/.*{message}')


def test_labels_in_a_file(folder):
    """The folders are not the classes."""
    (folder / 'list.txt').write_text('cross/cross_1.JPEG 2\n')
    cfg = open_config(f'demo/{CLASSIFIER}.py')
    dataset = cfg.train_dataloader.dataset
    dataset.ann_file = str(folder / 'list.txt')
    cfg.model.head.num_classes = 2
    check_data(cfg, ('train',))
    dataset.metainfo = dict(classes=['a', 'b'])
    found, _ = inspect_data(cfg, ('train',)).values()
    assert 'labels [2], but there are 2 classes' in found.problems[-1]


def test_tool(folder):
    command = TOOLS / 'misc' / 'check_dataset.py', SEMANTIC
    root = folder.parent.parent
    # The test data are those of the validation.
    assert call_tool(*command, cwd=root).endswith(
        '1. train: BaseSegDataset: 8 images\n'
        '2. val: BaseSegDataset: 2 images\nsettings\nno problems\n'
    )
    sorted(folder.glob(MAPS))[0].write_bytes(b'')
    printed = call_tool(*command, '--splits', 'train', cwd=root, code=1)
    assert printed.count('problem: data/demo/ade/') == 1
    assert printed.endswith('1 problems\n')
