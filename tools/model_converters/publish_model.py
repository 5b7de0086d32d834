#!/usr/bin/env python
import argparse

from mmhatnet.checkpoint import locate, read, save, strip
from mmhatnet.cli import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Make a checkpoint of a training ready for others: the '
        'weights, the config and the classes, without optimizer and logs.'
    )
    parser.add_argument('checkpoint', help='file (*.pth)')
    parser.add_argument(
        'folder', help='where to put NAME-SHA256.pth, whose name is printed'
    )
    parser.add_argument(
        '--name', help='start of its name; default: that of the checkpoint'
    )
    args = parser.parse_args()
    path = locate(args.checkpoint)
    name = args.name or path.stem
    print(save(strip(read(path)), args.folder, name))


if __name__ == '__main__':
    with one_line_errors():
        main()
