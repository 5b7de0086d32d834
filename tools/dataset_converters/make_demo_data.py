#!/usr/bin/env python
import argparse
from pathlib import Path

from mmhatnet.datasets import make_demo_data
from mmhatnet.engine.cli import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Make small data sets in the layouts of ADE20K, COCO and '
        'ImageNet, on which the configs run in minutes: shapes cut out of the '
        'photographs in scikit-image (pip install scikit-image), pasted on '
        'other photographs. Nothing is downloaded. Training and validation '
        'data come from disjoint parts of every photograph.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--out', type=Path, default='data/demo', help='folder to make')
    add('--num-train', type=int, default=240, help='training scenes')
    add('--num-val', type=int, default=60, help='validation scenes')
    add('--seed', type=int, default=0, help='random seed')
    add('--force', action='store_true', help='replace earlier demo data')
    args = parser.parse_args()
    summary = make_demo_data(
        args.out,
        args.num_train,
        args.num_val,
        seed=args.seed,
        force=args.force,
    )
    width, height = summary['size']
    print(f'{width}x{height} pixels, and 64x64 in imagenet; in {args.out}:')
    for path in ('ade/ADEChallengeData2016', 'coco', 'imagenet'):
        print(f'  {path}')
    for split in ('train', 'val'):
        part = summary[split]
        objects = ', '.join(f'{n} {c}' for c, n in part['objects'].items())
        print(
            f'{split}: {part["images"]} images, {part["background"]:.0%} '
            f'background; {objects}; {part["crowds"]} crowds'
        )


if __name__ == '__main__':
    with one_line_errors():
        main()
