#!/usr/bin/env python
"""Draws the folders of the package and their imports: docs/architecture.md."""

import argparse
import ast
from collections import defaultdict
from graphlib import TopologicalSorter

from common import DOCS, ROOT, make_figure, save_figure

PACKAGE = ROOT / 'mmhatnet'
FILES = '__init__', '__main__', 'registry', 'version'  # beside the folders


def find_imports() -> dict[str, set[str]]:
    """Find the folders whose modules a folder imports at their top level."""
    found = defaultdict(set)
    for path in sorted(PACKAGE.rglob('*.py')):
        folder, *rest = path.relative_to(PACKAGE).parts
        if not rest or folder == '.mim':
            continue
        for node in ast.parse(path.read_text('utf-8')).body:
            levels = getattr(node, 'level', None)
            if isinstance(node, ast.ImportFrom) and levels == len(rest) + 1:
                names = [node.module or each.name for each in node.names]
                targets = {name.partition('.')[0] for name in names}
                found[folder] |= targets.difference(FILES)
    return found


def find_floors(imports: dict[str, set[str]]) -> dict[str, int]:
    """Put each folder one floor above the highest that it imports."""
    floors: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        below = [floors[each] for each in imports.get(name, ())]
        floors[name] = max(below, default=-1) + 1
    return floors


def find_places(floors: dict[str, int]) -> dict[str, tuple[float, int]]:
    """Place the folders of each floor side by side: x and floor."""
    places = {}
    for floor in set(floors.values()):
        names = sorted(name for name in floors if floors[name] == floor)
        for i, name in enumerate(names):
            # Odd floors are moved, so that arrows pass between the folders.
            shift = 0.18 if floor % 2 else -0.18
            places[name] = (i + 0.5) * 4 / len(names) + shift, floor
    return places


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    imports = find_imports()
    places = find_places(find_floors(imports))
    figure, (axes,) = make_figure(size=(9, 6), dpi=120)
    axes.set(
        xlim=(-0.3, 4.3), ylim=(-0.5, max(y for _, y in places.values()) + 0.5)
    )
    axes.axis('off')
    arrow = dict(arrowstyle='-|>', color='#9aa5b1', shrinkA=24, shrinkB=24)
    for name, targets in imports.items():
        for target in sorted(targets):
            axes.annotate('', places[target], places[name], arrowprops=arrow)
    box = dict(boxstyle='round,pad=0.5', fc='#eaf2fb', ec='#3b6ea5')
    for name, place in places.items():
        axes.text(*place, f'{name}/', ha='center', va='center', bbox=box)
    save_figure(figure, DOCS / 'images' / 'architecture.png')


if __name__ == '__main__':
    main()
