"""Pascal VOC: an XML file for each image."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from ..samples import Box, Reading, Sample, sort_names
from .boxes import make_reading
from .files import Files, split_of


def read_voc(files: Files) -> Reading | None:
    """Read boxes; difficult ones are neither learned nor counted.

    None without such XML files.
    """
    lists = {
        line.split()[0]: split_of(path.stem)
        for path in files.others['.txt']
        if split_of(path.stem) and 'ImageSets' in path.parts
        for line in files.text(path).splitlines()
        if line.strip()
    }
    objects: dict[Path, list] = {}
    samples = []
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
        size = image and files.size(image)
        if not image:
            files.odd.add('alone', path)
        elif size and image not in objects:
            objects[image] = list(_read_objects(tree, path, files))
            split = split or split_of(*image.parent.parts)
            samples.append(
                Sample(files.root / image, None, [], None, size, split)
            )
    if not trees:
        return None
    for image in files.images:
        if image not in objects:
            files.odd.add('unlabelled', image)
    classes = sort_names(n for found in objects.values() for n, _ in found)
    for sample, found in zip(samples, objects.values(), strict=True):
        sample.boxes = [x._replace(label=classes.index(n)) for n, x in found]
    return make_reading('Pascal VOC', classes, samples, files)


def _parse(path: Path, files: Files) -> ElementTree.Element | None:
    try:
        content = files.text(path)
        # A few lines of definitions can grow to gigabytes.
        if '<!DOCTYPE' in content or '<!ENTITY' in content:
            raise ValueError('it has a DOCTYPE; remove that')
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        files.odd.add('file', path, error)
        return None


def _read_objects(
    tree: ElementTree.Element, path: Path, files: Files
) -> Iterator[tuple[str, Box]]:
    for each in tree.iter('object'):
        name = each.findtext('name', '').strip()
        sides = [
            each.findtext(f'bndbox/{key}', '')
            for key in ('xmin', 'ymin', 'xmax', 'ymax')
        ]
        crowd = each.findtext('difficult') == '1'
        try:
            left, top, right, bottom = map(float, sides)
        except ValueError:
            name = ''
        if name:
            yield name, Box(left, top, right, bottom, -1, None, crowd)
        else:
            files.odd.add('incomplete', path)
