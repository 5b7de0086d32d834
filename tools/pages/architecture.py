#!/usr/bin/env python
"""Draw the folders of the package and their imports: docs/architecture.md."""

import argparse
import ast
from collections import defaultdict
from graphlib import TopologicalSorter

from common import DOCS, ROOT, make_figure, save_figure
from matplotlib.patches import FancyArrowPatch

from mmhatnet.engine.cli import one_line_errors

PACKAGE = ROOT / 'mmhatnet'
PICTURE = DOCS / 'images' / 'architecture.png'
FILES = '__init__', '__main__', 'registry', 'version'  # beside the folders


def count_lines() -> dict[str, int]:
    """Count the lines of Python in each folder."""
    found: dict[str, int] = defaultdict(int)
    for path in PACKAGE.rglob('*.py'):
        folder = path.relative_to(PACKAGE).parts[0]
        if folder not in ('.mim', *(f'{name}.py' for name in FILES)):
            found[folder] += len(path.read_text('utf-8').splitlines())
    return found


def find_imports() -> dict[str, set[str]]:
    """Find the folders whose modules a folder imports at their top level."""
    found = defaultdict(set)
    for path in PACKAGE.rglob('*.py'):
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


def draw() -> tuple[dict[str, int], int]:
    """Draw the folders, those that import others above them.

    Returns:
        tuple[dict[str, int], int]: The floor of each folder, and the number
        of arrows.
    """
    imports, lines = find_imports(), count_lines()
    floors = find_floors(imports)
    places = {}
    for floor in set(floors.values()):
        names = sorted(name for name in floors if floors[name] == floor)
        for i, name in enumerate(names):
            # Odd floors are moved, so that arrows pass between the folders.
            shift = 0.18 if floor % 2 else -0.18
            places[name] = (i + 0.5) * 4 / len(names) + shift, floor
    figure, (axes,) = make_figure(size=(9, 6), dpi=120)
    axes.set(xlim=(-0.3, 4.3), ylim=(-0.5, max(floors.values()) + 0.5))
    axes.axis('off')
    for name, targets in imports.items():
        for target in targets:
            arrow = FancyArrowPatch(
                places[name],
                places[target],
                arrowstyle='-|>',
                mutation_scale=10,
                shrinkA=22,
                shrinkB=22,
                color='#9aa5b1',
            )
            axes.add_patch(arrow)
    for name, (x, y) in places.items():
        text = f'{name}/\n{lines[name]:,} lines'
        box = dict(boxstyle='round,pad=0.5', fc='#eaf2fb', ec='#3b6ea5')
        axes.text(x, y, text, ha='center', va='center', fontsize=9, bbox=box)
    save_figure(figure, PICTURE)
    return floors, sum(map(len, imports.values()))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    floors, arrows = draw()
    print(
        f'{len(floors)} folders on {max(floors.values()) + 1} floors, '
        f'{arrows} arrows, {sum(count_lines().values())} lines'
    )


if __name__ == '__main__':
    with one_line_errors():
        main()
