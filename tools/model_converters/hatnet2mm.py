#!/usr/bin/env python
import argparse
import sys

from mmhatnet import __version__
from mmhatnet.apis.conversion import convert_classifier, convert_to_official
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.utils.hashes import sha256_of
from mmhatnet.weights.files import read_checkpoint, save_checkpoint
from mmhatnet.weights.official import BACKBONE, OFFICIAL_HEAD, strip_prefix
from mmhatnet.weights.releases import RELEASES, locate_weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint of the authors' code for mm, or "
        'back; every key, shape and value is checked.'
    )
    add = parser.add_argument
    add('source', help='file, URL or hatnet://NAME')
    add('folder', help='folder for NAME-SHA256.pth; the path is printed')
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument(
        '--backbone',
        action='store_true',
        help='write only the backbone, without the classifier',
    )
    direction.add_argument(
        '--to-official',
        action='store_true',
        help="convert a checkpoint of mm for the authors' code; only the "
        'backbone of a segmentor or detector',
    )
    args = parser.parse_args()
    path = locate_weights(args.source)
    meta = dict(
        mmhatnet_version=__version__,
        source=path.name,
        source_sha256=sha256_of(path),
    )
    if args.to_official:
        arch, weights = convert_to_official(read_checkpoint(path), str(path))
        name = RELEASES[arch].removesuffix('.pth')
        content = dict(model=weights, meta=meta)
        if not set(OFFICIAL_HEAD) <= set(weights):
            print(f'{path} has no ImageNet classifier', file=sys.stderr)
    else:
        arch, weights = convert_classifier(read_checkpoint(path), str(path))
        name = f'hatnet-{arch}_in1k'
        if args.backbone:
            name = f'hatnet-{arch}_backbone_in1k'
            weights = strip_prefix(weights, BACKBONE)
        content = dict(state_dict=weights, meta=dict(arch=arch, **meta))
    print(save_checkpoint(content, args.folder, name))


if __name__ == '__main__':
    with one_line_errors():
        main()
