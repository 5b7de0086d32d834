"""Whatever is wrong with the data is found, and named by its file."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers import DEMOS, TOOLS, call_tool, open_config
from mmengine.config import ConfigDict
from PIL import Image

from mmhatnet.engine.checks import check_data, inspect_data

SEMANTIC = DEMOS['Semantic Segmentation']
INSTANCES = DEMOS['Instance Segmentation']
CLASSIFIER = DEMOS['Image Classification']
IMAGES = {
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


def inspect(name, workers=1):
    """All that is found in the training data of a demo."""
    cfg = open_config(f'demo/{name}.py')
    (found,) = inspect_data(cfg, ('train',), workers).values()
    return found


def check(name):
    check_data(open_config(f'demo/{name}.py'), ('train',))


@pytest.mark.parametrize('name', DEMOS.values())
def test_good_data(name, folder):
    found = inspect(name, workers=2)
    assert (found.problems, found.notes) == ([], [])
    assert found.images == (240 if name == CLASSIFIER else 8)
    cfg = open_config(f'demo/{name}.py')
    assert check_data(cfg, ('train', 'val', 'test')) == []


class TestImages:
    @pytest.mark.parametrize(
        ('name', 'damage', 'reason'),
        [
            (SEMANTIC, lambda content: b'', 'the file is empty'),
            (INSTANCES, lambda content: content[:-200], 'truncated'),
            (CLASSIFIER, lambda content: b'<html>' * 99, 'cannot identify'),
        ],
    )
    def test_damaged(self, name, damage, reason, folder):
        path = sorted(folder.glob(IMAGES[name]))[3]
        path.write_bytes(damage(path.read_bytes()))
        (line,) = inspect(name).problems
        assert path.name in line
        assert reason in line

    @pytest.mark.parametrize('name', [SEMANTIC, INSTANCES])
    def test_rotated_by_exif(self, name, folder):
        """The libraries rotate images, and annotations are not rotated."""
        path = sorted(folder.glob(IMAGES[name]))[0]
        with Image.open(path) as image:
            exif = image.getexif()
            exif[0x0112] = 6
            image.resize((64, 48)).save(path, exif=exif)
        (line,) = inspect(name).problems
        assert '48x64' in line
        assert '64x64' in line

    @pytest.mark.parametrize('orientation', [1, 3, 6])
    @pytest.mark.parametrize('name', IMAGES)
    def test_turned_by_exif(self, name, orientation, folder):
        """The size shows neither half a turn nor that of a square."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        for path in sorted(folder.glob(IMAGES[name]))[:3]:
            with Image.open(path) as image:
                image.convert('RGB').save(path, 'jpeg', exif=exif)
        found = inspect(name)
        assert found.problems == []
        turned = orientation > 1 and name != CLASSIFIER
        assert [note[:21] for note in found.notes] == (
            ['3 images are rotated '] if turned else []
        )

    def test_none(self, folder):
        """A training would wait for one forever."""
        for path in folder.glob(IMAGES[SEMANTIC]):
            path.rename(path.with_suffix('.JPG'))
        message = r'no images \*\.jpg \(img_suffix of the data set\) in data/'
        with pytest.raises(ValueError, match=message):
            check(SEMANTIC)
        assert re.match(message, inspect(SEMANTIC).problems[0])

    @pytest.mark.parametrize(
        'change',
        [
            dict(ann_file='http://nowhere/a.json'),
            dict(backend_args=dict(backend='petrel')),
        ],
    )
    def test_elsewhere(self, change, folder):
        """Only the tool says that it cannot read them."""
        cfg = open_config(f'demo/{INSTANCES}.py')
        cfg.train_dataloader.dataset.update(change)
        check_data(cfg, ('train',))
        (found,) = inspect_data(cfg, ('train',)).values()
        assert 'are not local' in (found.problems + found.notes)[0]


class TestLabelMaps:
    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            (lambda x: x[:-4], '64x60 pixels, but the image has 64x64'),
            (lambda x: x.astype(np.uint16) + 256, 'has one channel of 8 bits'),
            (lambda x: np.stack([x] * 3, axis=2), 'has one channel of 8 bits'),
            (lambda x: x * 0 + 8, r'labels \[7\], but there are 7 classes'),
        ],
    )
    def test_wrong(self, change, reason, folder):
        path = sorted(folder.glob(MAPS))[0]
        with Image.open(path) as image:
            labels = np.array(image)
        Image.fromarray(change(labels)).save(path)
        (line,) = inspect(SEMANTIC).problems
        assert re.match(f'data/demo/.*{path.name}: .*{reason}', line)
        with pytest.raises(ValueError, match=f'{path.name}: .*{reason}'):
            check(SEMANTIC)

    def test_masks_of_0_and_255(self, folder):
        """255 is ignored: a training would learn the background."""
        paths = sorted(folder.glob(MAPS))
        mask = np.zeros((64, 64), np.uint8)
        mask[:32] = 255
        for path in paths:
            Image.fromarray(mask).save(path)
        message = 'only the values 0 and 255, .*than 255 for disk'
        with pytest.raises(ValueError, match=message):
            check(SEMANTIC)
        assert re.search(message, inspect(SEMANTIC).problems[0])
        mask[0] = 3  # one object among them is enough
        Image.fromarray(mask).save(paths[-1])
        check(SEMANTIC)

    def test_missing(self, folder):
        path = sorted(folder.glob(MAPS))[2]
        path.unlink()
        assert inspect(SEMANTIC).problems == [
            f'data/demo/{path.relative_to(folder)}: there is no such file'
        ]


class TestCoco:
    @pytest.fixture
    def change(self, folder):
        """Function that changes the annotations of the training."""

        def apply(change):
            content = json.loads((folder / JSON).read_text())
            change(content)
            (folder / JSON).write_text(json.dumps(content))

        return apply

    @pytest.mark.parametrize(
        ('fault', 'message'),
        [
            (lambda c: c.update(annotations=[]), "has no 'annotations'"),
            (lambda c: c.update(annotations=[5]), 'not in the COCO format'),
            (lambda c: c['images'][0].pop('width'), "has no 'width'"),
            (lambda c: c['images'].append(c['images'][0]), 'is twice in'),
            (
                lambda c: c['categories'].append(dict(id=0, name='disk')),
                r'named disk \(ids 1, 0\): remove the unused one, 0',
            ),
            (
                lambda c: c['categories'][0].update(name='dog'),
                "'disk' of the data set .* is not among .*'dog', 'square'",
            ),
            (
                lambda c: c['categories'].reverse(),
                "needs the order of its categories: 'cross', 'ring'",
            ),
            (
                lambda c: c['images'][-1].update(file_name='no.jpg'),
                'no data/demo/coco/train2017/no.jpg, one of its images',
            ),
        ],
    )
    def test_does_not_fit(self, fault, message, change):
        """A training would end in numpy, or give the classes wrong names."""
        change(fault)
        with pytest.raises(ValueError, match=message):
            check(INSTANCES)
        (line,) = inspect(INSTANCES).problems
        assert re.match(f'data/demo/{JSON}: .*{message}', line)

    def test_no_json(self, folder):
        (folder / JSON).write_text('{"images": [')
        with pytest.raises(ValueError, match=f'{JSON}: Expecting'):
            check(INSTANCES)

    def test_numbers_of_other_tools(self, change):
        """Pandas makes 5.0 of 5, with which mmdet trains."""

        def to_floats(content):
            for entry in content['annotations']:
                for key in ('id', 'image_id', 'category_id'):
                    entry[key] = float(entry[key])

        change(to_floats)
        assert inspect(INSTANCES).problems == []

    def test_names_of_used_categories(self, change):
        """Only those that the data set has matter."""
        change(lambda c: c['categories'][1].update(name='disk'))
        with pytest.raises(ValueError, match='disk .*: rename one, or merge'):
            check(INSTANCES)
        cfg = open_config(f'demo/{INSTANCES}.py')
        classes = ('triangle', 'star', 'ring', 'cross')
        cfg.train_dataloader.dataset.metainfo = dict(classes=classes)
        for head in ('bbox_head', 'mask_head'):
            cfg.model.roi_head[head].num_classes = len(classes)
        check_data(cfg, ('train',))

    def test_unlabelled(self, change):
        change(lambda c: c.update(annotations=[]))
        cfg = open_config(f'demo/{INSTANCES}.py')
        cfg.train_dataloader.dataset.filter_cfg = None
        check_data(cfg, ('train',))


class TestClassification:
    def test_labels_in_a_file(self, folder):
        """The folders are not the classes."""
        (folder / 'list.txt').write_text('cross/cross_1.JPEG 2\n')
        cfg = open_config(f'demo/{CLASSIFIER}.py')
        dataset = cfg.train_dataloader.dataset
        dataset.ann_file = str(folder / 'list.txt')
        cfg.model.head.num_classes = 2
        check_data(cfg, ('train',))
        dataset.metainfo = dict(classes=['a', 'b'])
        (found,) = inspect_data(cfg, ('train',)).values()
        assert 'labels [2], but there are 2 classes' in found.problems[-1]

    def test_downloaded_data_are_not_absent(self, folder):
        """The library downloads CIFAR-10 when it needs it."""
        cfg = open_config(f'demo/{CLASSIFIER}.py')
        cfg.check_data = False
        cfg.train_dataloader.dataset = ConfigDict(
            type='CIFAR10',
            data_root='data/cifar10',
            split='train',
            pipeline=[],
        )
        check_data(cfg, ('train',))
        cfg.train_dataloader.dataset.download = False
        with pytest.raises(FileNotFoundError, match='no data at data/cifar10'):
            check_data(cfg, ('train',))


def test_tool(folder):
    command = TOOLS / 'misc' / 'check_dataset.py', SEMANTIC
    root = folder.parent.parent
    printed = call_tool(*command, cwd=root)
    assert '1. train: BaseSegDataset: 8 images\n' in printed
    assert '2. val: BaseSegDataset: 2 images\n' in printed
    assert '3. ' not in printed  # the test data are those of the validation
    assert printed.endswith('no problems\n')
    for path in sorted(folder.glob(MAPS))[:2]:
        path.write_bytes(b'')
    options = '--splits', 'train', '--workers', 1
    printed = call_tool(*command, *options, cwd=root, code=1)
    assert printed.count('problem: data/demo/ade/') == 2
    assert printed.endswith('2 problems\n')
