import json
import sys
from collections import Counter

import numpy as np
import pytest
from helpers import TOOLS, call_tool, run_tool
from PIL import Image
from pycocotools.coco import COCO

from mmhatnet.datasets import (
    CLASSES,
    demo,
    make_demo_data,
)

MAKE_DEMO_DATA = TOOLS / 'dataset_converters' / 'make_demo_data.py'
NUMBERS = dict(train=12, val=6)
ADE = 'ade/ADEChallengeData2016'


def make(folder, **kwargs):
    numbers = dict(num_train=NUMBERS['train'], num_val=NUMBERS['val'])
    return make_demo_data(folder, **(numbers | kwargs))


def read_files(folder):
    """The bytes of all files, by their paths."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def read_ade(folder, split, what='annotations'):
    """The images or label maps of a split, by number."""
    suffix = dict(images='jpg', annotations='png')[what]
    files = (folder / ADE / what / demo.SPLITS[split]).iterdir()
    arrays = {}
    for file in files:
        prefix, number = file.stem.rsplit('_', 1)
        assert (prefix, file.suffix) == (f'ADE_{split}', f'.{suffix}')
        arrays[int(number)] = np.array(Image.open(file))
    assert sorted(arrays) == list(range(1, NUMBERS[split] + 1))
    return arrays


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The folder and the summary of small demo data."""
    pytest.importorskip('skimage')
    folder = tmp_path_factory.mktemp('datasets') / 'demo'
    return folder, make(folder)


@pytest.fixture(params=NUMBERS)
def split(request):
    return request.param


@pytest.fixture
def coco(made, split):
    return COCO(made[0] / f'coco/annotations/instances_{split}2017.json')


class TestDemoData:
    def test_deterministic(self, made, tmp_path):
        make(tmp_path / 'same')
        make(tmp_path / 'other', seed=1)
        first = read_files(made[0])
        assert read_files(tmp_path / 'same') == first
        other = read_files(tmp_path / 'other')
        assert other.keys() == first.keys()
        assert all(other[path] != first[path] for path in first)

    def test_layouts(self, made, split):
        folder, summary = made
        coco = folder / 'coco' / f'{split}2017'
        assert summary == json.loads((folder / demo.MARKER).read_text())
        assert len(list(coco.iterdir())) == NUMBERS[split]
        for n, image in read_ade(folder, split, 'images').items():
            assert image.shape == (160, 192, 3)
            same = np.array(Image.open(coco / f'{n:012d}.jpg'))
            assert np.array_equal(image, same)
        labels = np.stack(list(read_ade(folder, split).values()))
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) == set(range(len(CLASSES) + 2))
        background = summary[split]['background']
        assert background == pytest.approx((labels == 1).mean(), abs=1e-4)
        crops = folder / 'imagenet' / split
        assert {path.name for path in crops.iterdir()} == set(CLASSES)
        for path in crops.iterdir():
            sizes = [Image.open(file).size for file in path.glob('*.JPEG')]
            assert sizes == [(64, 64)] * demo.CROPS[split]

    def test_coco_is_exact(self, made, coco, split):
        """Masks, areas, boxes and labels agree with the label maps."""
        ids = sorted(coco.cats)
        assert ids != list(range(ids[0], ids[0] + len(ids)))
        assert tuple(coco.cats[id_]['name'] for id_ in ids) == CLASSES
        for n, labels in read_ade(made[0], split).items():
            expected = np.ones_like(labels)
            taken = np.zeros(labels.shape, int)
            for ann in coco.imgToAnns[n]:
                mask = coco.annToMask(ann).astype(bool)
                label = ids.index(ann['category_id']) + 2
                expected[mask] = 0 if ann['iscrowd'] else label
                taken += mask
                y, x = mask.nonzero()
                assert ann['area'] == mask.sum() >= demo.MIN_PIXELS
                left, top, width, height = ann['bbox']
                assert (left, left + width) == (x.min(), x.max() + 1)
                assert (top, top + height) == (y.min(), y.max() + 1)
            assert taken.max() == 1
            np.testing.assert_array_equal(labels, expected)

    def test_counts(self, made, coco, split):
        names = {number: each['name'] for number, each in coco.cats.items()}
        own = [x for x in coco.anns.values() if not x['iscrowd']]
        objects = Counter(names[ann['category_id']] for ann in own)
        assert made[1][split]['objects'] == objects
        assert made[1][split]['crowds'] == len(coco.anns) - len(own) > 0

    @pytest.mark.default_stack
    def test_splits_share_no_pixel(self, monkeypatch, tmp_path):
        """Use photographs whose hue tells the position from the left."""
        pytest.importorskip('skimage')
        real_open = Image.open

        def ramp(file):
            width, height = real_open(file).size
            x = np.linspace(0, 120, width).round()
            row = np.stack([60 + x, np.full(width, 60), 180 - x], axis=1)
            return Image.fromarray(
                np.tile(row.astype(np.uint8), (height, 1, 1))
            )

        with monkeypatch.context() as patch:
            patch.setattr(Image, 'open', ramp)
            make(tmp_path / 'ramps')
        hues = {}
        for split in NUMBERS:
            labels = read_ade(tmp_path / 'ramps', split)
            images = read_ade(tmp_path / 'ramps', split, 'images')
            for n, image in images.items():
                red, _, blue = np.moveaxis(image.astype(float), 2, 0)
                hue = red / (red + blue)  # independent of the brightness
                for kind in ('background', 'object'):
                    which = (labels[n] == 1) == (kind == 'background')
                    hues.setdefault((split, kind), []).append(hue[which])
        for kind in ('background', 'object'):
            train, val = (
                np.concatenate(hues[split, kind]) for split in NUMBERS
            )
            # JPEG changes the hue a little, most at the edges of objects.
            assert np.quantile(train, 0.999) < np.quantile(val, 0.001) + 0.02


@pytest.mark.default_stack
class TestWriting:
    @pytest.fixture(autouse=True)
    def _few_crops(self, monkeypatch):
        pytest.importorskip('skimage')
        monkeypatch.setattr(demo, 'CROPS', dict(train=1, val=1))

    def test_does_not_overwrite(self, tmp_path):
        make(tmp_path / 'demo', num_train=1, num_val=1)
        before = read_files(tmp_path)
        with pytest.raises(FileExistsError, match='--force'):
            make(tmp_path / 'demo', seed=1)
        assert read_files(tmp_path) == before
        make(tmp_path / 'demo', num_train=1, num_val=1, seed=1, force=True)
        assert read_files(tmp_path).keys() == before.keys()
        assert read_files(tmp_path) != before

    def test_does_not_delete_other_files(self, tmp_path):
        (tmp_path / 'precious').touch()
        with pytest.raises(FileExistsError, match='files other than'):
            make(tmp_path, force=True)
        assert [path.name for path in tmp_path.iterdir()] == ['precious']

    @pytest.mark.parametrize('earlier', [False, True])
    def test_interruption_leaves_nothing(self, monkeypatch, tmp_path, earlier):
        if earlier:
            make(tmp_path / 'demo', num_train=1, num_val=1)
        before = read_files(tmp_path)

        def interrupt(*args):
            assert list(tmp_path.glob('.demo.*/**/*.jpg'))
            raise KeyboardInterrupt

        monkeypatch.setattr(json, 'dumps', interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / 'demo', force=True)
        assert read_files(tmp_path) == before
        assert len(list(tmp_path.iterdir())) == earlier

    def test_names_a_missing_package(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, 'skimage', None)
        with pytest.raises(ImportError, match='pip install scikit-image'):
            make(tmp_path / 'demo')
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        'wrong', [dict(num_val=0), dict(size=(192, 8)), dict(seed=-1)]
    )
    def test_refuses_wrong_numbers(self, tmp_path, wrong):
        with pytest.raises(ValueError, match='must'):
            make(tmp_path / 'demo', **wrong)

    def test_tool(self, tmp_path):
        args = ('--out', tmp_path / 'demo', '--num-train', 2, '--num-val', 1)
        output = run_tool(MAKE_DEMO_DATA, *args)
        assert 'train: 2 images' in output
        again = call_tool(MAKE_DEMO_DATA, *args, code=1)
        assert '--force' in again
        assert again.count('\n') == 1
