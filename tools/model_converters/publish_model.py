#!/usr/bin/env python
import argparse

from mmhatnet.cli import one_line_errors
from mmhatnet.weights.files import (
    locate_checkpoint,
    read_checkpoint,
    save_checkpoint,
    strip_checkpoint,
)


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
    path = locate_checkpoint(args.checkpoint)
    name = args.name or path.stem
    print(
        save_checkpoint(
            strip_checkpoint(read_checkpoint(path)), args.folder, name
        )
    )


if __name__ == '__main__':
    with one_line_errors():
        main()
