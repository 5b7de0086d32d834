import io
import json
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from tqdm import tqdm

from ..utils.atomic import creating


def _polygon(points: int, step: int = 1) -> Callable:
    """Make a shape that joins every point to the ``step``-th next one."""
    normal = np.pi * step / points

    def inside(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
        sector = 2 * np.pi / points
        from_point = np.abs((angle + sector / 2) % sector - sector / 2)
        return radius * np.cos(from_point - normal) <= np.cos(normal)

    return inside


def _cross(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    across = np.minimum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    return (radius <= 1) & (radius * across <= 0.3)


# Class -> its photograph, and a function that tells which points
# (radius, angle) of the unit disk it fills.
SHAPES = {
    'disk': ('retina.jpg', lambda radius, angle: radius <= 1),
    'square': ('coffee.png', _polygon(4)),
    'triangle': ('hubble_deep_field.jpg', _polygon(3)),
    'star': ('rocket.jpg', _polygon(5, 2)),
    'ring': ('chelsea.png', lambda radius, angle: abs(radius - 0.75) <= 0.25),
    'cross': ('page.png', _cross),
}
BACKGROUNDS = (
    'brick.png',
    'camera.png',
    'clock_motion.png',
    'coins.png',
    'grass.png',
    'gravel.png',
    'moon.png',
    'motorcycle_left.png',
)
CLASSES = tuple(SHAPES)
CATEGORY_IDS = (1, 2, 4, 5, 8, 13)  # with gaps, as in COCO
SPLITS = {'train': 'training', 'val': 'validation'}  # COCO -> ADE20K
MARKER = 'demo_data.json'  # --force deletes only folders that contain it
MIN_PIXELS = 30  # objects with fewer visible pixels are left out
CROWD_EVERY = 10  # images
CROPS = dict(train=40, val=15)  # for classification, per class


def _photographs(split: str) -> dict[str, Image.Image]:
    """Open the left 2/3 (train) or right 1/3 (val) of the photographs."""
    try:
        import skimage
    except ImportError as error:
        raise ImportError(
            'The demo data are made from photographs in scikit-image: '
            'pip install scikit-image'
        ) from error
    folder = Path(skimage.__file__).parent / 'data'
    textures = [texture for texture, _ in SHAPES.values()]
    photos = {}
    for name in (*textures, *BACKGROUNDS):
        photo = Image.open(folder / name).convert('RGB')
        width, height = photo.size
        # Textures lose their margins, because that of retina.jpg is black.
        margin = 0.15 if name in textures else 0
        left, right = margin * width, (1 - margin) * width
        cut = left + (right - left) * 2 / 3
        left, right = (left, cut) if split == 'train' else (cut, right)
        box = left, margin * height, right, (1 - margin) * height
        left, top, right, bottom = map(round, box)
        photos[name] = photo.crop((left, top, right, bottom))
    return photos


def _view(
    rng: np.random.Generator,
    photo: Image.Image,
    size: tuple[int, int],
    zoom: tuple[float, float],
) -> Image.Image:
    """Cut a random crop, scale it to ``size``, flip it, change brightness."""
    factor = rng.uniform(*zoom)
    factor = max(factor, *np.divide(size, photo.size))
    crop = np.minimum(np.ceil(np.divide(size, factor)), photo.size)
    corner = rng.integers(photo.size - crop.astype(int) + 1)
    view = photo.resize(
        size, Image.Resampling.BICUBIC, box=(*corner, *(corner + crop))
    )
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(view).enhance(rng.uniform(0.75, 1.25))


def _scene(
    rng: np.random.Generator,
    photos: dict[str, Image.Image],
    size: tuple[int, int],
    labels: Iterable[int],
    scale: tuple[float, float],
    spread: float,
    crowd: int | None = None,
) -> tuple[Image.Image, list[tuple[int, np.ndarray, bool]]]:
    """Make an image and its objects: (label, visible pixels (H, W), crowd)."""
    sides, short = np.array(size), min(size)

    def shape(label: int, centre: np.ndarray, diameter: float) -> np.ndarray:
        x, y = np.meshgrid(*map(np.arange, size))
        x, y = x - centre[0], y - centre[1]
        turn = rng.uniform(0, 2 * np.pi)
        radius = np.hypot(x, y) / (diameter * short / 2)
        return SHAPES[CLASSES[label]][1](radius, np.arctan2(y, x) + turn)

    objects = []  # from back to front
    if crowd is not None:
        centre = sides * rng.uniform(0.25, 0.75, 2)
        group = [
            shape(crowd, rng.normal(centre, 0.12 * short), 0.14)
            for _ in range(16)
        ]
        objects.append((crowd, np.any(group, axis=0), True))
    for label in labels:
        centre = sides * rng.uniform(0.5 - spread, 0.5 + spread, 2)
        mask = shape(label, centre, rng.uniform(*scale))
        objects.append((label, mask, False))

    visible, free = [], np.ones(size[::-1], bool)
    for label, mask, is_crowd in reversed(objects):
        mask = mask & free
        if mask.sum() >= MIN_PIXELS:
            visible.append((label, mask, is_crowd))
            free &= ~mask

    image = _view(rng, photos[rng.choice(BACKGROUNDS)], size, (0.4, 1))
    for label, mask, _ in visible:
        shown = Image.fromarray(mask.astype(np.uint8) * 255)
        box = shown.getbbox()
        assert box is not None  # the mask has at least MIN_PIXELS
        texture = photos[SHAPES[CLASSES[label]][0]]
        extent = (box[2] - box[0], box[3] - box[1])
        view = _view(rng, texture, extent, (0.4, 0.8))
        image.paste(view, box, shown.crop(box))
    return image, visible


def _annotation(label: int, mask: np.ndarray, is_crowd: bool) -> dict:
    """Make COCO's record of an object, as RLE, which is exact to the pixel."""
    from pycocotools import mask as mask_utils

    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    area, bbox = int(mask_utils.area(rle)), mask_utils.toBbox(rle).tolist()
    # COCO stores crowds uncompressed: lengths of runs along the columns, where
    # the first run is of zeros.
    if is_crowd:
        flat = mask.ravel(order='F')
        changes = np.flatnonzero(np.diff(flat, prepend=False))
        rle['counts'] = np.diff([0, *changes, flat.size]).tolist()
    else:
        rle['counts'] = rle['counts'].decode()
    return dict(
        category_id=CATEGORY_IDS[label],
        iscrowd=int(is_crowd),
        area=area,
        bbox=bbox,
        segmentation=rle,
    )


def _make(root: Path, numbers: dict, size: tuple[int, int], seed: int) -> dict:
    """Write all three data sets and return the summary."""
    summary = dict(seed=seed, size=list(size))
    annotation_ids = count(1)
    for index, (split, ade_split) in enumerate(SPLITS.items()):
        ade, coco = root / 'ade' / 'ADEChallengeData2016', root / 'coco'
        ade_images = ade / 'images' / ade_split
        ade_labels = ade / 'annotations' / ade_split
        coco_images = coco / f'{split}2017'
        for folder in (ade_images, ade_labels, coco_images):
            folder.mkdir(parents=True)
        photos = _photographs(split)
        images, annotations, background = [], [], 0.0
        for n in tqdm(range(1, numbers[split] + 1), desc=f'{split} scenes'):
            rng = np.random.default_rng((seed, index, n))
            labels = rng.integers(len(CLASSES), size=rng.integers(2, 7))
            turn, rest = divmod(n, CROWD_EVERY)
            crowd = turn % len(CLASSES) if rest == CROWD_EVERY // 2 else None
            image, objects = _scene(
                rng, photos, size, labels, (0.2, 0.7), 0.4, crowd
            )
            semantic = np.ones(size[::-1], np.uint8)
            for label, mask, is_crowd in objects:
                semantic[mask] = 0 if is_crowd else label + 2
                ids = dict(id=next(annotation_ids), image_id=n)
                annotations.append(ids | _annotation(label, mask, is_crowd))
            background += float((semantic == 1).mean())
            jpeg = io.BytesIO()
            image.save(jpeg, 'JPEG', quality=95)
            stem, name = f'ADE_{split}_{n:08d}', f'{n:012d}.jpg'
            (ade_images / f'{stem}.jpg').write_bytes(jpeg.getvalue())
            Image.fromarray(semantic).save(ade_labels / f'{stem}.png')
            (coco_images / name).write_bytes(jpeg.getvalue())
            shape = dict(width=size[0], height=size[1])
            images.append(dict(id=n, file_name=name, license=1, **shape))
        categories = [
            dict(id=id_, name=name, supercategory='shape')
            for id_, name in zip(CATEGORY_IDS, CLASSES, strict=True)
        ]
        instances = dict(
            info=dict(description='mmhatnet demo data', version='1.0'),
            licenses=[dict(id=1, name='see README.txt in skimage/data')],
            images=images,
            annotations=annotations,
            categories=categories,
        )
        file = coco / 'annotations' / f'instances_{split}2017.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(instances), 'utf-8')
        own = [a['category_id'] for a in annotations if not a['iscrowd']]
        summary[split] = dict(
            images=len(images),
            objects={c['name']: own.count(c['id']) for c in categories},
            crowds=len(annotations) - len(own),
            background=round(background / len(images), 4),
        )

        for label, name in enumerate(tqdm(CLASSES, desc=f'{split} crops')):
            folder = root / 'imagenet' / split / name
            folder.mkdir(parents=True)
            for n in range(1, CROPS[split] + 1):
                # label + 1, because 0 would give the seed of a scene.
                rng = np.random.default_rng((seed, index, n, label + 1))
                image, _ = _scene(
                    rng, photos, (64, 64), [label], (0.5, 0.9), 0.1
                )
                image.save(folder / f'{name}_{n}.JPEG', quality=95)
    (root / MARKER).write_text(json.dumps(summary, indent=2), 'utf-8')
    return summary


def make_demo_data(
    out_dir: str | Path,
    num_train: int = 240,
    num_val: int = 60,
    size: tuple[int, int] = (192, 160),
    seed: int = 0,
    force: bool = False,
) -> dict:
    """Make small data sets in the layouts of ADE20K, COCO and ImageNet.

    The images show rotated shapes, cut out of photographs in scikit-image (one
    per class), that overlap each other on other photographs. Training takes
    its pixels from the left two thirds of every photograph and validation
    from the right third, so training never sees a pixel of validation. The
    same arguments give the same bytes.

    - ``ade/ADEChallengeData2016``: 0 is unlabelled (the crowds), 1 is the
      background, and 2, 3, ... are ``CLASSES``.
    - ``coco``: the same images, with masks as RLE and exact areas and boxes.
      Every tenth image has a crowd.
    - ``imagenet``: crops of 64x64 pixels with one object. Each class has 40
      for training and 15 for validation.

    Args:
        out_dir (str | Path): Folder to make.
        num_train (int): Number of training scenes. Defaults to 240.
        num_val (int): Number of validation scenes. Defaults to 60.
        size (tuple[int, int]): Width and height of the scenes, in pixels.
            Defaults to (192, 160).
        seed (int): Random seed, 0 or larger. Defaults to 0.
        force (bool): Replace earlier demo data in ``out_dir``. Defaults to
            False.

    Returns:
        dict: ``seed``, ``size``, and for ``train`` and ``val`` each: the
        numbers of ``images``, of ``objects`` by class and of ``crowds``, and
        the share of ``background`` pixels; also in ``demo_data.json``.

    Raises:
        FileExistsError: If ``out_dir`` contains files other than demo data,
            or contains demo data and ``force`` is not set.
        ImportError: If scikit-image or pycocotools is not installed.
        ValueError: If a number is too small.
    """
    if min(num_train, num_val) < 1 or min(size) < 32 or seed < 0:
        raise ValueError(
            'Each split must have at least one image, images must have at '
            'least 32x32 pixels, and the seed must not be negative'
        )
    # If out_dir is a link, replace its target and keep the link.
    out_dir = Path(out_dir).resolve()
    earlier = (out_dir / MARKER).is_file()
    if earlier and not force:
        raise FileExistsError(
            f'{out_dir} exists: delete it, or replace it with --force'
        )
    if not earlier and (out_dir.is_file() or any(out_dir.glob('*'))):
        raise FileExistsError(
            f'{out_dir} contains files other than demo data: delete it '
            'yourself or choose another folder'
        )
    numbers = dict(train=num_train, val=num_val)
    with creating(out_dir, replace=True) as made:
        return _make(made, numbers, size, seed)
