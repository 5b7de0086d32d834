import re
import shutil
from argparse import Namespace

import made_folders as made
import numpy as np
import pytest
from PIL import Image

from mmhatnet.finetune import splits
from mmhatnet.finetune.command import finetune
from mmhatnet.finetune.converting import convert
from mmhatnet.finetune.found import recognize
from mmhatnet.finetune.layouts.files import split_of


def names(found, split):
    return sorted(
        sample.image.relative_to(found.root).as_posix()
        for sample in found.splits[split]
    )


def test_is_reproducible_and_moves_little(tmp_path):
    root = made.folders(tmp_path / 'a', count=20)
    found = recognize(root)
    shutil.copytree(root, tmp_path / 'b')
    assert names(recognize(tmp_path / 'b'), 'val') == names(found, 'val')
    assert names(recognize(root, seed=1), 'val') != names(found, 'val')
    # The content decides, so one more image changes no more than its class.
    made.save(made.picture(5000), root / 'red' / '_new.png')
    old, new = set(names(found, 'val')), set(names(recognize(root), 'val'))
    assert len(old - new) <= 1
    assert {name for name in old ^ new if 'red' not in name} == set()


def test_each_class_is_in_both_splits(tmp_path):
    made.folders(tmp_path, count=20, classes=['red', 'green'])
    made.folders(tmp_path, count=2, classes=['blue'])
    for samples in recognize(tmp_path).splits.values():
        assert {sample.label for sample in samples} == {0, 1, 2}


def smaller(path):
    with Image.open(path) as image:
        copy = path.with_name(f'other{path.stem}.jpg')
        image.resize((100, 75)).save(copy, quality=60)


def named(*endings):
    """Other pictures with such endings of their names."""

    def make(path):
        for i, ending in enumerate(endings):
            image = made.picture(1000 + 10 * int(path.stem) + i)
            image.save(path.with_name(f'{path.stem}_{ending}.png'))

    return make


@pytest.mark.parametrize(
    'copy',
    [
        lambda x: shutil.copy(x, x.with_name(f'other{x.name}')),
        named('png.rf.0ae35c9d1c', 'png.rf.1ae35c9d1c'),
        named('hflip', 'rot90', 'aug_3'),
        smaller,
    ],
)
def test_copies_stay_together(copy, tmp_path):
    """Two classes of 10 photographs, each with copies."""
    for number in range(20):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
        photograph = Image.fromarray(pixels).resize((128, 96))
        file = tmp_path / ('cat', 'dog')[number % 2] / f'{number}.png'
        copy(made.save(photograph, file))
    found = recognize(tmp_path)
    assert any('copies of other images' in note for note in found.notes)
    train, val = (
        {re.sub('other|[._].*', '', name) for name in names(found, split)}
        for split in ('train', 'val')
    )
    assert not train & val
    assert len(val) == 4


def test_a_large_group_is_for_training(tmp_path):
    """Such as the tiles of one photograph, however the groups are ordered."""
    for number, count in enumerate((40, 4, 4, 4)):
        for i in range(count):
            image, name = made.picture(100 * number + i), f'{number}_crop_{i}'
            made.save(image, tmp_path / f'red/{name}.png')
            made.save(image.rotate(180), tmp_path / f'blue/{name}.png')
    for seed in range(5):
        found = recognize(tmp_path, seed)
        assert len(found.splits['val']) < len(found.splits['train'])


@pytest.mark.parametrize(
    ('split', 'folders'),
    [
        ('train', 'train2017 train_labels trainannot training_images'),
        ('val', 'images/val Validation'),
        ('test', 'test-set/images'),
        (None, 'train_station valley'),
    ],
)
def test_split_of_folder(split, folders):
    for names in folders.split():
        assert split_of(*names.split('/')) == split


class TestPlace:
    """No file of a user is ever replaced."""

    @pytest.fixture
    def found(self, tmp_path):
        return recognize(made.folders(tmp_path / 'my' / 'photos'))

    @pytest.mark.parametrize('place', ['.', 'my', 'my/photos', 'my/photos/x'])
    def test_above_or_inside(self, place, found, tmp_path):
        before = made.listing(tmp_path)
        with pytest.raises(ValueError, match='give --work-dir, for example'):
            convert(found, tmp_path / place)
        assert made.listing(tmp_path) == before

    def test_command_in_the_folder(self, found, tmp_path):
        """Its pictures would be images of the next call."""
        before = made.listing(tmp_path)
        work_dir = found.root / 'work_dirs' / 'photos'
        args = Namespace(path=found.root, work_dir=work_dir)
        with pytest.raises(ValueError, match='give --work-dir, for example'):
            finetune(args)
        assert made.listing(tmp_path) == before

    def test_other_files(self, found, tmp_path):
        file = made.write(tmp_path / 'data' / 'thesis.txt', 'all my work')
        with pytest.raises(FileExistsError, match='has other files'):
            convert(found, file.parent)
        assert file.read_text() == 'all my work'

    def test_again(self, found, tmp_path):
        first = convert(found, tmp_path / 'data')
        made.write(tmp_path / 'data' / 'train.txt', 'damaged')
        assert convert(found, tmp_path / 'data') == first
        text = (tmp_path / 'data' / 'train.txt').read_text()
        assert len(text.splitlines()) == 15
        assert str(tmp_path) not in text


def test_large_folders_are_sampled(tmp_path, monkeypatch):
    """The last image is damaged, but not every image is decoded."""
    monkeypatch.setattr(splits, 'MANY_PIXELS', 2 * 32 * 24)  # two images
    root = made.folders(tmp_path, count=3)
    last = root / 'red' / '2.png'
    last.write_bytes(last.read_bytes()[:-100])
    found = recognize(root)
    assert sum(map(len, found.splits.values())) == 9
    assert any('only some images were decoded' in x for x in found.notes)
    monkeypatch.undo()
    assert sum(map(len, recognize(root).splits.values())) == 8


def test_many_files(tmp_path, monkeypatch):
    """Of many files, names decide, with their folders."""
    monkeypatch.setattr(splits, 'MANY_FILES', 10)
    found = recognize(made.folders(tmp_path / 'a', count=10))
    assert len(found.splits['val']) == 6
    (tmp_path / 'a').rename(tmp_path / 'b')
    assert names(recognize(tmp_path / 'b'), 'val') == names(found, 'val')


def test_many_large_files(tmp_path, monkeypatch):
    """Every third header is read, and of these every fourth image."""
    monkeypatch.setattr(splits, 'MANY_FILES', 10)
    monkeypatch.setattr(splits, 'SAMPLED', 10)
    monkeypatch.setattr(splits, 'MANY_PIXELS', 3 * 32 * 24)
    found = recognize(made.folders(tmp_path, count=10))
    (note,) = (x for x in found.notes if 'only some images' in x)
    assert note.endswith(': 3 of 30')
