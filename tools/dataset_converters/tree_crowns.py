#!/usr/bin/env python
import argparse
from pathlib import Path

from mmhatnet.datasets.tree_crowns import prepare_tree_crowns
from mmhatnet.engine.cli import one_line_errors, positive


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Cut the aerial photographs of trees in the wheel of '
        'DeepForest into tiles with COCO annotations: one photograph for '
        'training, three others, two of them from other sites, for testing. '
        'pip download --no-deps deepforest==2.1.0 fetches the wheel.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('package', type=Path, help='deepforest-2.1.0-py3-none-any.whl')
    add('--out', type=Path, default='data/tree_crowns', help='folder to make')
    add('--size', type=positive, default=400, help='side of a tile in pixels')
    args = parser.parse_args()
    counts = prepare_tree_crowns(args.package, args.out, args.size)
    for split, (tiles, boxes) in counts.items():
        print(f'{args.out / split}: {tiles} tiles with {boxes} boxes')


if __name__ == '__main__':
    with one_line_errors():
        main()
