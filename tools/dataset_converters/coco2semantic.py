#!/usr/bin/env python
import argparse
from pathlib import Path

from mmhatnet.datasets import coco_to_semantic
from mmhatnet.engine.cli import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make semantic label maps of COCO's instances: one uint8 "
        'PNG per image, with 0 for the background, 1 to N for the categories '
        'in the order of their ids, and 255 (ignored) for crowds.'
    )
    add = parser.add_argument
    add('ann_file', type=Path, help='such as instances_val2017.json')
    add('out_dir', type=Path, help='folder for the PNGs')
    args = parser.parse_args()
    classes = coco_to_semantic(args.ann_file, args.out_dir)
    print(f'num_classes = {len(classes)}')
    print(f'classes = {classes}')


if __name__ == '__main__':
    with one_line_errors():
        main()
