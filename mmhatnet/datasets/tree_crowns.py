import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..utils.atomic import creating
from ..utils.hashes import verify_sha256

# The large photograph, of Yellowstone, is for training; the others, two of
# them from other sites, are for testing.
SPLITS = {
    'train': ['2019_YELL_2_528000_4978000_image_crop2.png'],
    'test': [
        '2019_YELL_2_541000_4977000_image_crop.png',
        'OSBS_029.png',
        'SOAP_061.png',
    ],
}
# Of deepforest-2.1.0-py3-none-any.whl.
SHA256 = '8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54'
VISIBLE = 0.5  # parts of boxes that are smaller are left out


def read_boxes(xml: str | bytes) -> np.ndarray:
    """Read the boxes of a Pascal VOC file.

    Args:
        xml (str | bytes): The content of the file.

    Returns:
        ndarray: The boxes, (N, 4): left, top, right and bottom in pixels.
    """
    return np.array(
        [
            [
                float(box.findtext(key, ''))
                for key in ('xmin', 'ymin', 'xmax', 'ymax')
            ]
            for box in ElementTree.fromstring(xml).iter('bndbox')
        ]
    ).reshape(-1, 4)


def _starts(length: int, size: int, stride: int) -> Iterator[int]:
    yield from range(0, max(length - size, 0), stride)
    yield max(length - size, 0)


def _cut(boxes: np.ndarray, left: int, top: int, size: int) -> np.ndarray:
    """Move boxes to a tile, without those that are mostly outside."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    boxes = np.clip(boxes - [left, top, left, top], 0, size)
    inside = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return boxes[inside >= VISIBLE * area]


def prepare_tree_crowns(
    package: str | Path,
    out_dir: str | Path,
    size: int = 400,
) -> dict[str, tuple[int, int]]:
    """Cut DeepForest's aerial photographs into tiles with COCO annotations.

    The training tiles come from one photograph, the test tiles from three
    others, two of them from other sites.

    Args:
        package (str | Path): The wheel ``deepforest`` 2.1.0.
        out_dir (str | Path): Folder to make: ``train/``, ``test/`` and
            ``annotations/``.
        size (int): Side of the tiles in pixels. Neighbouring training tiles
            share half of it, test tiles only as much as the size of the
            photograph requires. Defaults to 400.

    Returns:
        dict[str, tuple[int, int]]: Split -> the number of tiles and of boxes.

    Raises:
        FileExistsError: If ``out_dir`` exists.
        ValueError: If the package has another hash.
    """
    counts = {}
    with creating(out_dir) as part:
        verify_sha256(package, SHA256, f'{package} (deepforest 2.1.0)')
        (part / 'annotations').mkdir()
        with zipfile.ZipFile(package) as wheel:
            for split, names in SPLITS.items():
                stride = size // 2 if split == 'train' else size
                counts[split] = _write_split(
                    wheel, names, part, split, size, max(stride, 1)
                )
    return counts


def _write_split(
    wheel: zipfile.ZipFile,
    names: list[str],
    folder: Path,
    split: str,
    size: int,
    stride: int,
) -> tuple[int, int]:
    (folder / split).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for name in tqdm(names, split):
        path = f'deepforest/data/{name}'
        boxes = read_boxes(wheel.read(path.replace('.png', '.xml')))
        photograph = Image.open(io.BytesIO(wheel.read(path))).convert('RGB')
        for top in _starts(photograph.height, size, stride):
            for left in _starts(photograph.width, size, stride):
                tile = f'{Path(name).stem}_{left}_{top}.png'
                area = (left, top, left + size, top + size)
                photograph.crop(area).save(folder / split / tile)
                for x1, y1, x2, y2 in _cut(boxes, left, top, size).tolist():
                    annotations.append(
                        dict(
                            id=len(annotations) + 1,
                            image_id=len(images),
                            category_id=1,
                            bbox=[x1, y1, x2 - x1, y2 - y1],
                            area=(x2 - x1) * (y2 - y1),
                            iscrowd=0,
                        )
                    )
                images.append(
                    dict(
                        id=len(images), file_name=tile, width=size, height=size
                    )
                )
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=1, name='tree')],
    )
    ann_file = folder / 'annotations' / f'{split}.json'
    ann_file.write_text(json.dumps(content), 'utf-8')
    return len(images), len(annotations)
