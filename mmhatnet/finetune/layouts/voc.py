"""Pascal VOC: an XML file for each image."""

from pathlib import Path
from xml.etree import ElementTree

from ..samples import Box, Reading, Sample, sort_names
from .boxes import make_reading
from .files import Files, split_of


def read_voc(files: Files) -> Reading | None:
    """Read boxes; difficult ones are neither learned nor counted.

    Args:
        files (Files): The files.

    Returns:
        Reading, optional: The images; None without such XML files.
    """
    lists = {
        line.split()[0]: split
        for path in files.others['.txt']
        for split in [split_of(path.stem)]
        if split and 'ImageSets' in path.parts
        for line in files.text(path).splitlines()
        if line.strip()
    }
    objects: dict[Path, tuple[list, str | None]] = {}
    trees = 0
    for path in files.others['.xml']:
        tree = _parse(path, files)
        if tree is None or tree.tag != 'annotation':
            continue
        trees += 1
        split = split_of(*path.parent.parts) or lists.get(path.stem)
        image = files.find(path.stem, path, split) or files.find(
            tree.findtext('filename') or '', path, split
        )
        if not image:
            files.odd.add('labels without their image, left out', path)
        elif files.size(image):
            split = split or split_of(*image.parent.parts)
            objects[image] = list(_read_objects(tree, path, files)), split
    if not trees:
        return None
    for image in files.images:
        if image not in objects:
            files.odd.add('images without labels, left out', image)
    classes = sort_names(n for found, _ in objects.values() for n, _ in found)
    samples = []
    for image, (found, split) in objects.items():
        boxes = [box._replace(label=classes.index(n)) for n, box in found]
        samples.append(
            Sample(
                *(files.root / image, None, boxes, None),
                size=files.size(image),
                split=split,
            )
        )
    return make_reading('Pascal VOC', classes, samples, files)


def _parse(path: Path, files: Files) -> ElementTree.Element | None:
    try:
        content = files.text(path)
        # A few lines of definitions can grow to gigabytes.
        if '<!DOCTYPE' in content or '<!ENTITY' in content:
            raise ValueError('it has a DOCTYPE; remove that')
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        files.odd.add(
            'XML files that cannot be read, left out',
            f'{path} ({error!s:.100})',
        )
        return None


def _read_objects(tree: ElementTree.Element, path: Path, files: Files):
    for each in tree.iter('object'):
        name = (each.findtext('name') or '').strip()
        sides = [
            each.findtext(f'bndbox/{key}', '')
            for key in ('xmin', 'ymin', 'xmax', 'ymax')
        ]
        try:
            left, top, right, bottom = map(float, sides)
            if not name:
                raise ValueError
        except ValueError:
            files.odd.add('objects without name or box, left out', path)
            continue
        crowd = each.findtext('difficult') == '1'
        yield name, Box(left, top, right, bottom, -1, None, crowd)
