#!/usr/bin/env python
import argparse

from mmhatnet.engine.cli import one_line_errors
from mmhatnet.weights.files import (
    read_checkpoint,
    save_checkpoint,
    strip_checkpoint,
    to_half,
)
from mmhatnet.weights.loading import check_finite
from mmhatnet.weights.releases import locate_weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Prepare a checkpoint of a training for publication: '
        'keep the weights, the config and the classes; remove the optimizer '
        'and the logs.'
    )
    add = parser.add_argument
    add('checkpoint', help='file, URL or hatnet://NAME')
    add('folder', help='folder for NAME-SHA256.pth; the path is printed')
    add('--name', help='start of the file name (default: the checkpoint name)')
    add(
        '--half',
        action='store_true',
        help='save the weights in float16, in half the space',
    )
    add(
        '--safetensors',
        action='store_true',
        help='save a .safetensors file, which other libraries read as well',
    )
    args = parser.parse_args()
    path = locate_weights(args.checkpoint)
    name = args.name or path.stem
    content = strip_checkpoint(read_checkpoint(path))
    if args.half:
        content['state_dict'] = to_half(content['state_dict'])
    check_finite(content['state_dict'], str(path))
    suffix = '.safetensors' if args.safetensors else '.pth'
    print(save_checkpoint(content, args.folder, name, suffix))


if __name__ == '__main__':
    with one_line_errors():
        main()
