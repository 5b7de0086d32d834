import io
import json
import zipfile
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


def _read_boxes(xml: bytes) -> np.ndarray:
    """Read the boxes of a Pascal VOC file: (N, 4), the corners in pixels."""
    keys = 'xmin', 'ymin', 'xmax', 'ymax'
    boxes = ElementTree.fromstring(xml).iter('bndbox')
    found = [[float(box.findtext(key, '')) for key in keys] for box in boxes]
    return np.array(found).reshape(-1, 4)


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


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
            for split in SPLITS:
                counts[split] = _write_split(wheel, part, split, size)
    return counts


def _write_split(
    wheel: zipfile.ZipFile, folder: Path, split: str, size: int
) -> tuple[int, int]:
    stride = max(size // 2, 1) if split == 'train' else size
    (folder / split).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for name in tqdm(SPLITS[split], split):
        path = f'deepforest/data/{name}'
        boxes = _read_boxes(wheel.read(path.replace('.png', '.xml')))
        photograph = Image.open(io.BytesIO(wheel.read(path))).convert('RGB')
        for top in _starts(photograph.height, size, stride):
            for left in _starts(photograph.width, size, stride):
                tile = f'{Path(name).stem}_{left}_{top}.png'
                area = (left, top, left + size, top + size)
                photograph.crop(area).save(folder / split / tile)
                number = dict(image_id=len(images), category_id=1, iscrowd=0)
                for x1, y1, x2, y2 in _cut(boxes, left, top, size).tolist():
                    w, h = x2 - x1, y2 - y1
                    box = dict(id=len(annotations) + 1, bbox=[x1, y1, w, h])
                    annotations.append(box | number | dict(area=w * h))
                sides = dict(width=size, height=size)
                images.append(dict(id=len(images), file_name=tile, **sides))
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=1, name='tree')],
    )
    ann_file = folder / 'annotations' / f'{split}.json'
    ann_file.write_text(json.dumps(content), 'utf-8')
    return len(images), len(annotations)
