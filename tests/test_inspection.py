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

CHECK = TOOLS / 'misc' / 'check_dataset.py'
SEMANTIC = DEMOS['Semantic Segmentation']
INSTANCES = DEMOS['Instance Segmentation']
CLASSIFIER = DEMOS['Image Classification']


@pytest.fixture
def folder(demo_folder, tmp_path, monkeypatch):
    """A copy of the demo data, to be damaged; the current folder."""
    shutil.copytree(demo_folder / 'data', tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'data' / 'demo'


def inspect(name, splits=('train',), workers=0, **change):
    cfg = open_config(f'demo/{name}.py')
    cfg.merge_from_dict(change)
    return next(iter(inspect_data(cfg, splits, workers).values()))


def files(folder, pattern):
    return sorted(folder.rglob(pattern))


def rewrite_labels(folder, change):
    """Change the first label map of the training."""
    path = files(folder / 'ade', 'annotations/training/*.png')[0]
    with Image.open(path) as image:
        labels = np.array(image)
    Image.fromarray(change(labels)).save(path)
    return path


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('name', DEMOS.values())
def test_good_data(name, workers, folder):
    found = inspect(name, workers=workers)
    assert found.problems == []
    assert found.images == (240 if name == CLASSIFIER else 8)
    assert all(found.classes.values())
    check_data(open_config(f'demo/{name}.py'), ('train', 'val', 'test'))


class TestImages:
    @pytest.mark.parametrize(
        ('damage', 'reason'),
        [
            (lambda content: b'', 'the file is empty'),
            (lambda content: content[:-200], 'truncated'),
            (lambda content: b'<html>' * 99, 'cannot identify'),
        ],
    )
    @pytest.mark.parametrize('name', DEMOS.values())
    def test_damaged(self, name, damage, reason, folder):
        images = {
            SEMANTIC: 'ade/**/images/training/*.jpg',
            CLASSIFIER: 'imagenet/train/*/*.*',
        }
        pattern = images.get(name, 'coco/train2017/*.jpg')
        path = sorted(folder.glob(pattern))[3]
        path.write_bytes(damage(path.read_bytes()))
        (line,) = inspect(name).problems
        assert path.name in line
        assert reason in line

    def test_rotated_by_exif(self, folder):
        """The libraries rotate images, and annotations are not rotated."""
        path = files(folder, 'coco/train2017/*.jpg')[0]
        with Image.open(path) as image:
            exif = image.getexif()
            exif[0x0112] = 6
            image.resize((64, 48)).save(path, exif=exif)
        (line,) = inspect(INSTANCES).problems
        assert '48x64 pixels, but 64x64 in the annotations' in line

    @pytest.mark.parametrize('orientation', [1, 3, 4, 6])
    @pytest.mark.parametrize(
        ('name', 'images'),
        [
            (SEMANTIC, 'ade/**/images/training/*.jpg'),
            (INSTANCES, 'coco/train2017/*.jpg'),
            (CLASSIFIER, 'imagenet/train/star/*'),
        ],
    )
    def test_turned_by_exif(self, name, images, orientation, folder):
        """The size shows neither half a turn nor that of a square."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        for path in sorted(folder.glob(images))[:3]:
            with Image.open(path) as image:
                image.save(path, exif=exif)
        found = inspect(name)
        assert found.problems == []
        turned = orientation > 1 and name != CLASSIFIER
        assert [note[:20] for note in found.notes] == (
            ['3 images are turned '] if turned else []
        )


class TestLabelMaps:
    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            (lambda x: x[:-4], '64x60 pixels, but the image has 64x64'),
            (lambda x: x.astype(np.uint16) * 300, 'has one channel of 8 bits'),
            (lambda x: np.stack([x] * 3, axis=2), 'has one channel of 8 bits'),
            (lambda x: x * 0 + 8, r'labels \[7\], but there are 7 classes'),
        ],
    )
    def test_wrong(self, change, reason, folder):
        path = rewrite_labels(folder, change)
        (line,) = inspect(SEMANTIC).problems
        assert line.startswith(f'data/demo/{path.relative_to(folder)}: ')
        assert re.search(reason, line)

    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            (lambda x: x.astype(np.uint16) + 256, 'has one channel of 8 bits'),
            (lambda x: x * 0 + 8, r'labels \[7\], but there are 7 classes'),
            (lambda x: x[:-4], '64x60 pixels, but the image has 64x64'),
        ],
    )
    def test_wrong_before_a_training(self, change, reason, folder):
        path = rewrite_labels(folder, change)
        cfg = open_config(f'demo/{SEMANTIC}.py')
        with pytest.raises(ValueError, match=f'{path.name}.*{reason}'):
            check_data(cfg, ('train',))

    def test_transforms_of_others(self, folder):
        """They may read anything, and change labels."""

        class Other:
            pass

        rewrite_labels(folder, lambda x: x.astype(np.uint16) + 256)
        cfg = open_config(f'demo/{SEMANTIC}.py')
        cfg.train_dataloader.dataset.pipeline.append(dict(type=Other))
        check_data(cfg, ('train',))

    @pytest.mark.parametrize('reduced', [True, False])
    def test_masks_of_0_and_255(self, reduced, folder):
        """255 is not learned: a training would learn the background."""
        paths = files(folder / 'ade', 'annotations/training/*.png')
        mask = np.zeros((64, 64), np.uint8)
        mask[:32] = 255
        for path in paths:
            Image.fromarray(mask).save(path)
        cfg = open_config(f'demo/{SEMANTIC}.py')
        dataset = cfg.train_dataloader.dataset
        dataset.reduce_zero_label = reduced
        for transform in dataset.pipeline:
            if 'reduce_zero_label' in transform:
                transform.reduce_zero_label = reduced
        learned, number = ('nothing', 2) if reduced else ('only backgr', 1)
        message = f'0 and 255: .*so {learned}.*; write {number} for disk'
        with pytest.raises(ValueError, match=message):
            check_data(cfg, ('train',))
        (found,) = inspect_data(cfg, ('train',)).values()
        assert re.search(message, found.problems[0])
        mask[0] = 3  # one object among them is enough
        Image.fromarray(mask).save(paths[-1])
        check_data(cfg, ('train',))

    def test_ignored_labels_are_right(self, folder):
        rewrite_labels(folder, lambda x: x * 0 + 255)
        rewrite_labels(folder, lambda x: x * 0)
        assert inspect(SEMANTIC).problems == []

    def test_missing(self, folder):
        path = files(folder / 'ade', 'annotations/training/*.png')[2]
        path.rename(path.with_name('other.png'))
        found = inspect(SEMANTIC)
        assert found.problems == [
            f'data/demo/{path.relative_to(folder)}: there is no such file'
        ]
        assert 'other.png: a label map without an image' in found.notes[0]

    def test_reduce_zero_label(self, folder):
        cfg = open_config(f'demo/{SEMANTIC}.py')
        cfg.train_dataloader.dataset.reduce_zero_label = False
        with pytest.raises(ValueError, match='reduce_zero_label is False'):
            check_data(cfg, ('train',))


@pytest.mark.parametrize(
    ('name', 'setting', 'images'),
    [
        (SEMANTIC, 'img_suffix', 'ade/**/images/training/*'),
        (SEMANTIC, 'seg_map_suffix', 'ade/**/annotations/training/*'),
        (CLASSIFIER, 'extensions', 'imagenet/train/*/*'),
    ],
)
def test_wrong_suffix(name, setting, images, folder):
    for path in sorted(folder.glob(images)):
        path.rename(path.with_suffix('.gif'))
    cfg = open_config(f'demo/{name}.py')
    with pytest.raises(
        ValueError, match=rf'{setting}.*but \d+ \.gif'
    ) as error:
        check_data(cfg, ('train',))
    assert str(error.value).startswith('data/demo/')
    for path in sorted(folder.glob(images)):
        path.unlink()
    with pytest.raises(ValueError, match='but nothing'):
        check_data(cfg, ('train',))


def annotation(**change):
    return lambda content: content['annotations'][0].update(change)


class TestCoco:
    @pytest.fixture
    def change(self, folder):
        """Function that changes the annotations of the training."""

        def apply(change):
            path = folder / 'coco' / 'annotations' / 'instances_train2017.json'
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))

        return apply

    @pytest.mark.parametrize(
        ('fault', 'message'),
        [
            (lambda c: c.pop('annotations'), "has no 'annotations'"),
            (lambda c: c.update(annotations=[]), "has no 'annotations'"),
            (lambda c: c.update(images={}), "has no 'images'"),
            (lambda c: c['images'][0].pop('width'), "has no 'width'"),
            (lambda c: c['annotations'][0].pop('area'), "has no 'area'"),
            (lambda c: c['images'].append(c['images'][0]), 'is twice in'),
            (annotation(image_id=1.5), "has the wrong 'image_id' 1.5: "),
            (annotation(area='9'), "has the wrong 'area' '9': "),
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
            (
                lambda c: c['annotations'][-1].update(segmentation=[]),
                'has no segmentation, and the pipeline loads masks',
            ),
        ],
    )
    def test_does_not_fit(self, fault, message, change):
        """A training would end in numpy, or give the classes wrong names."""
        change(fault)
        with pytest.raises(ValueError, match=message):
            check_data(open_config(f'demo/{INSTANCES}.py'), ('train',))
        (line,) = inspect(INSTANCES).problems
        assert re.search(message, line)

    def test_numbers_of_other_tools(self, change):
        """Pandas makes 5.0 of 5, with which mmdet trains."""
        before = inspect(INSTANCES)

        def to_floats(content):
            for entry in content['annotations']:
                for key in ('id', 'image_id', 'category_id'):
                    entry[key] = float(entry[key])

        change(to_floats)
        assert inspect(INSTANCES) == before

    def test_names_of_used_categories(self, change):
        """Only those that the data set has matter."""

        def rename(content):
            content['categories'][1]['name'] = 'disk'

        change(rename)
        with pytest.raises(ValueError, match='disk .*: rename one, or merge'):
            check_data(open_config(f'demo/{INSTANCES}.py'), ('train',))
        cfg = open_config(f'demo/{INSTANCES}.py')
        classes = ('triangle', 'star', 'ring', 'cross')
        cfg.train_dataloader.dataset.metainfo = dict(classes=classes)
        for head in ('bbox_head', 'mask_head'):
            cfg.model.roi_head[head].num_classes = len(classes)
        check_data(cfg, ('train',))

    def test_messages_are_short(self, change):
        """Whatever the file holds."""
        long = 'x' * 10**6
        for fault in (
            lambda c: c['annotations'][0].update(bbox=[long]),
            lambda c: c['annotations'][0].update(segmentation=long),
            lambda c: c['annotations'][0].update(category_id=long),
            lambda c: c['annotations'][0].update(id=long, image_id=long),
            lambda c: c['images'][0].update(file_name=long),
            lambda c: c['categories'][0].update(name=long),
        ):
            change(fault)
            found = inspect(INSTANCES)
            assert found.problems
            assert all(len(line) < 1000 for line in found.problems)

    @pytest.mark.parametrize(
        ('fault', 'message'),
        [
            (annotation(bbox=[1, 2, float('nan'), 9]), r'box is \[1, 2, nan'),
            (annotation(bbox=[1, 2, 3]), r'box is \[1, 2, 3\]'),
            (annotation(bbox=[50, 2, 30, 9]), 'goes beyond 64x64 pixels'),
            (annotation(image_id=99), 'there is no image 99'),
            (annotation(category_id=99), 'there is no category 99'),
            (annotation(segmentation=[[1, 2, 1e9, 3, 4, 5]]), '1000000000'),
            (
                annotation(segmentation=dict(size=[9, 9], counts=[81])),
                r'mask is for \[9, 9\]',
            ),
        ],
    )
    def test_odd_annotations(self, fault, message, change):
        change(fault)
        lines = inspect(INSTANCES).problems
        assert re.search(message, lines[0])
        assert 'instances_train2017.json: annotation ' in lines[0]

    @pytest.mark.parametrize(
        ('box', 'message'),
        [([5, 5, 0, 9], 'has no area'), ([70, 5, 9, 9], 'is outside of')],
    )
    def test_boxes_that_are_left_out(self, box, message, change):
        change(annotation(bbox=box))
        found = inspect(INSTANCES)
        assert found.problems == []
        assert message in found.notes[0]

    def test_no_json(self, folder):
        path = folder / 'coco' / 'annotations' / 'instances_train2017.json'
        path.write_text('{"images": [')
        with pytest.raises(ValueError, match='no JSON'):
            check_data(open_config(f'demo/{INSTANCES}.py'), ('train',))


@pytest.mark.parametrize(
    ('name', 'key', 'classes'),
    [
        (SEMANTIC, 'model.decode_head.num_classes', 7),
        (INSTANCES, 'model.roi_head.bbox_head.num_classes', 6),
        (INSTANCES, 'model.roi_head.mask_head.num_classes', 6),
        (CLASSIFIER, 'model.head.num_classes', 6),
    ],
)
def test_classes_of_heads(name, key, classes, folder):
    cfg = open_config(f'demo/{name}.py')
    cfg.merge_from_dict({key: 150})
    message = f'{key} is 150, and the data set has {classes} classes'
    with pytest.raises(ValueError, match=re.escape(message)):
        check_data(cfg, ('train',))
    assert message in inspect(name, **{key: 150}).problems
    cfg.check_data = False
    check_data(cfg, ('train',))


def test_classes_of_mixtures(folder):
    """mmpretrain only reads this number to mix labels."""
    cfg = open_config(f'demo/{CLASSIFIER}.py')
    cfg.data_preprocessor.num_classes = 1000
    check_data(cfg, ('train',))
    cfg.model.train_cfg = dict(augments=[dict(type='Mixup', alpha=0.8)])
    with pytest.raises(ValueError, match='data_preprocessor.num_classes is'):
        check_data(cfg, ('train',))


class TestNoFalseAlarms:
    """What the libraries train with is not stopped."""

    def test_links(self, folder, tmp_path):
        for images in (
            folder / 'imagenet' / 'train' / 'cross',
            folder / 'ade' / 'ADEChallengeData2016' / 'images' / 'training',
        ):
            images.rename(tmp_path / images.name)
            images.symlink_to(tmp_path / images.name)
        for name in (CLASSIFIER, SEMANTIC):
            check_data(open_config(f'demo/{name}.py'), ('train',))
            assert inspect(name).problems == []

    def test_types_that_are_classes(self, folder):
        from mmseg.datasets import BaseSegDataset

        cfg = open_config(f'demo/{SEMANTIC}.py')
        cfg.train_dataloader.dataset.type = BaseSegDataset
        check_data(cfg, ('train',))
        assert len(inspect_data(cfg, ('train',))) == 1

    @pytest.mark.parametrize(
        'change',
        [
            dict(ann_file='http://nowhere/a.json'),
            dict(data_root='s3://nowhere/coco/'),
            dict(data_root='no', backend_args=dict(backend='petrel')),
        ],
    )
    def test_files_elsewhere(self, change, folder):
        cfg = open_config(f'demo/{INSTANCES}.py')
        cfg.train_dataloader.dataset.update(change)
        check_data(cfg, ('train',))

    def test_images_without_labels(self, folder):
        cfg = open_config(f'demo/{SEMANTIC}.py')
        cfg.test_dataloader.dataset.data_prefix.seg_map_path = None
        check_data(cfg, ('test',))

    def test_unlabelled_coco(self, folder):
        path = folder / 'coco' / 'annotations' / 'instances_train2017.json'
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, 'annotations': []}))
        cfg = open_config(f'demo/{INSTANCES}.py')
        cfg.train_dataloader.dataset.filter_cfg = None
        check_data(cfg, ('train',))

    def test_labels_in_a_file(self, folder):
        """The folders are not the classes."""
        (folder / 'list.txt').write_text('cross/a.png 0\n')
        cfg = open_config(f'demo/{CLASSIFIER}.py')
        dataset = cfg.train_dataloader.dataset
        dataset.ann_file = str(folder / 'list.txt')
        cfg.model.head.num_classes = 2
        check_data(cfg, ('train',))

    def test_ignored_label(self, folder):
        """After the zero label is reduced, as the heads see it."""
        rewrite_labels(folder, lambda x: x * 0 + 201)
        cfg = open_config(f'demo/{SEMANTIC}.py')
        label = dict(ignore_index=200)
        cfg.train_dataloader.dataset.update(label)
        message = 'is 255 in model.decode_head, and 200 in train_dataloader'
        with pytest.raises(ValueError, match=message):
            check_data(cfg, ('train',))
        cfg.model.decode_head.update(label)
        cfg.model.data_preprocessor.seg_pad_val = 200
        for transform in cfg.train_dataloader.dataset.pipeline:
            if 'seg_pad_val' in transform:
                transform.seg_pad_val = 200
        (found,) = inspect_data(cfg, ('train',)).values()
        assert found.problems == []


def test_no_images(folder):
    for path in files(folder / 'ade', 'images/training/*.jpg'):
        path.rename(path.with_suffix('.JPG'))
    (path.parent / '.hidden.jpg').write_bytes(b'')
    (line,) = inspect(SEMANTIC).problems
    assert re.search(r'has no file \*\.jpg .* but 8 \.JPG', line)


def test_downloaded_data_are_not_absent(folder):
    """mmpretrain downloads CIFAR-10 when it needs it."""
    cfg = open_config(f'demo/{CLASSIFIER}.py')
    cfg.check_data = False
    cfg.train_dataloader.dataset = ConfigDict(
        type='CIFAR10', data_root='data/cifar10', split='train', pipeline=[]
    )
    check_data(cfg, ('train',))
    cfg.train_dataloader.dataset.download = False
    with pytest.raises(FileNotFoundError, match='no data at data/cifar10'):
        check_data(cfg, ('train',))


def test_tool(folder):
    command = CHECK, DEMOS['Semantic Segmentation']
    printed = call_tool(*command, cwd=folder.parent.parent)
    assert '1. train: BaseSegDataset: 8 images, 7 of 7 classes' in printed
    assert '2. val: BaseSegDataset: 2 images' in printed
    assert '3. ' not in printed  # the test data are those of the validation
    assert printed.endswith('no problems\n')
    for path in files(folder / 'ade', 'annotations/training/*.png')[:2]:
        path.write_bytes(b'')
    report = folder / 'new' / 'report.json'
    printed = call_tool(
        *(*command, '--splits', 'train', '--shown', 1, '--workers', 1),
        *('--out', report),
        cwd=folder.parent.parent,
        code=1,
    )
    assert printed.count('the file is empty') == 1
    assert 'problem: 1 more' in printed
    assert printed.endswith('2 problems\n')
    (found,) = json.loads(report.read_text()).values()
    assert len(found['problems']) == 2
