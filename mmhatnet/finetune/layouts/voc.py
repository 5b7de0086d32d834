"""Pascal VOC: an XML file for each image."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from ..samples import Box, Found, Sample
from .files import Files, split_of


def read_voc(files: Files) -> Found | None:
    """Read boxes, where difficult ones are crowds; None without XML files."""
    lists = {
        line.split()[0]: split_of(path.stem)
        for path in files.others['.txt']
        if split_of(path.stem) and 'ImageSets' in path.parts
        for line in files.text(path).splitlines()
        if line.strip()
    }
    parsed = ((path, _parse(path, files)) for path in files.others['.xml'])
    trees = {path: tree for path, tree in parsed if tree is not None}
    if not trees:
        return None
    samples: dict[Path, Sample] = {}
    for path, tree in trees.items():
        split = split_of(*path.parent.parts) or lists.get(path.stem)
        names = path.stem, tree.findtext('filename', '')
        sample = files.sample(path, split, *names)
        if sample:
            sample.boxes = list(_read_objects(tree, path, files))
            samples[sample.image] = sample
    found = [*samples.values()]
    return Found(files.root, 'Pascal VOC', 'detection', found, [])


def _parse(path: Path, files: Files) -> ElementTree.Element | None:
    """Parse annotations; None for another XML file."""
    try:
        content = files.text(path)
        # A few lines of definitions can grow to gigabytes.
        if '<!DOCTYPE' in content or '<!ENTITY' in content:
            raise ValueError('it has a DOCTYPE; remove that')
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        files.odd.add('file', path, error)
        return None
    return tree if tree.tag == 'annotation' else None


def _read_objects(
    tree: ElementTree.Element, path: Path, files: Files
) -> Iterator[Box]:
    for each in tree.iter('object'):
        name = each.findtext('name', '').strip()
        keys = 'xmin', 'ymin', 'xmax', 'ymax'
        try:
            sides = [float(each.findtext(f'bndbox/{x}', '')) for x in keys]
        except ValueError:
            name = ''
        if name:
            crowd = each.findtext('difficult') == '1'
            yield Box._make((*sides, name, None, crowd))
        else:
            files.odd.add('incomplete', path)
