"""Small folders in the layouts that people have, made for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 32, 24  # width and height
COLOURS = dict(red=(200, 40, 40), green=(40, 180, 60), blue=(40, 60, 200))
NAMES = 'cat', 'dog'
BOX = 4, 5, 14, 17  # of the object in an image, in most layouts


def picture(seed=0, colour=(128, 128, 128), size=SIZE):
    """A noisy picture, another one for each seed."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-30, 30, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, 'utf-8')
    return path


def pictures(folder, count=8, start=0, pattern='{}.png'):
    """Save pictures with a red or a green object, and return their paths."""
    paths = []
    for i in range(count):
        image = picture(start + i)
        image.paste([*COLOURS.values()][i % 2], BOX)
        paths.append(save(image, folder / pattern.format(i)))
    return paths


def folders(root, count=6, splits=('',), classes=COLOURS):
    for number, split in enumerate(splits):
        for label, (name, colour) in enumerate(COLOURS.items()):
            for i in range(count if name in classes else 0):
                seed = 1000 * number + 100 * label + i
                save(picture(seed, colour), root / split / name / f'{i}.png')
    return root


def label_maps(
    root,
    count=8,
    values=(0, 1, 2),
    mode='L',
    images='images/{}.png',
    masks='masks/{}.png',
):
    """The label of a pixel is also its colour in the picture."""
    for i in range(count):
        labels = np.resize(values, SIZE[::-1]).astype(np.uint8)
        labels = np.roll(np.sort(labels, 1), i, 1)
        image = Image.fromarray(labels)
        if mode == 'P':
            image.putpalette(list(range(256)) * 3)
        places = np.searchsorted(values, labels) % 3
        colours = np.array([*COLOURS.values()])[places]
        save(picture(i, colours), root / images.format(i))
        save(image, root / masks.format(i))
    return root


def coco(root, count=8, json_name='annotations.json', masks=False, start=0):
    """Each image has one object, a rectangle or a triangle."""
    left, top, right, bottom = BOX
    names = [path.name for path in pictures(root, count, start)]
    triangle = [left, top, right, top, right, bottom]
    width, height = right - left, bottom - top
    content = dict(
        images=[
            dict(id=i, file_name=name, width=SIZE[0], height=SIZE[1])
            for i, name in enumerate(names)
        ],
        categories=[
            dict(id=i, name=name) for i, name in enumerate(('things', *NAMES))
        ],
        annotations=[
            dict(
                id=i + 1,
                image_id=i,
                category_id=1 + i % 2,
                bbox=[left, top, width, height],
                segmentation=[triangle] if masks else [],
                area=width * height,
                iscrowd=0,
            )
            for i in range(count)
        ],
    )
    write(root / json_name, json.dumps(content))
    return content


def yolo(root, count=8, splits=('train', 'valid'), polygons=False, yaml=True):
    shape = '0.1 0.2 0.5 0.2 0.5 0.6' if polygons else '.3 .4 .4 .4'
    for number, split in enumerate(splits):
        paths = pictures(root / split / 'images', count, 100 * number)
        for i, path in enumerate(paths):
            file = root / split / 'labels' / f'{path.stem}.txt'
            write(file, f'{i % 2} {shape}\n')
    if yaml:
        write(root / 'data.yaml', "val: ../val\nnc: 2\nnames: ['cat', 'dog']")
    return root


def yolo_lists(root):
    """Images in one folder, which lists share out."""
    yolo(root, splits=('all',))
    for split, numbers in dict(train=range(5), val=range(5, 8)).items():
        names = [f'./all/images/{i}.png' for i in numbers]
        write(root / f'{split}.txt', '\n'.join(names))


VOC = """<annotation><filename>{name}</filename>
<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>
<xmin>4</xmin><ymin>5</ymin><xmax>14</xmax><ymax>17</ymax>
</bndbox></object></annotation>"""


def voc(root, count=8):
    for i, path in enumerate(pictures(root / 'JPEGImages', count)):
        text = VOC.format(name=path.name, label=NAMES[i % 2], difficult=0)
        write(root / 'Annotations' / f'{path.stem}.xml', text)
    return root


def table(root, rows, header='filename,label', name='labels.csv', **options):
    """A CSV; ``rows`` gets the number of each image."""
    pictures(root / 'pictures', **options)
    lines = [header] * bool(header) + [rows(i) for i in range(8)]
    write(root / name, '\n'.join(lines))
    return root


def listing(root):
    """What is in a folder, to see whether it was changed."""
    return {path: path.lstat().st_mtime_ns for path in Path(root).rglob('*')}
