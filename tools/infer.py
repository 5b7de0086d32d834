#!/usr/bin/env python
import argparse
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

FILES = '.pth', '.pt', '.ckpt', '.bin', '.safetensors', '.pkl'


def parse_args(exported: bool) -> argparse.Namespace:
    from mmhatnet.deploy.predict_files import FORMATS
    from mmhatnet.runtime.images import LIMIT, PIXELS
    from mmhatnet.utils.arguments import fraction, positive, sizes

    parser = argparse.ArgumentParser(
        description='Predict for images, videos or a webcam with a model of '
        'any task: classes, segmentation, or boxes and masks.'
    )
    add = parser.add_argument
    parser.usage = (
        '%(prog)s MODEL [CHECKPOINT] IMAGES [IMAGES ...] [options]\n'
        '       %(prog)s MODEL.onnx IMAGES [IMAGES ...] [options]'
    )
    add(
        'model',
        metavar='MODEL',
        help='name of a model, config file, or a file that '
        'tools/deployment/export.py wrote, which needs only onnxruntime',
    )
    add(
        'images',
        nargs='+',
        metavar='[CHECKPOINT] IMAGES',
        help=f'checkpoint: a file (*{", *".join(FILES)}), a URL or '
        'hatnet://NAME (default: the released weights of the model); then '
        'images, videos, folders of them (without subfolders), patterns such '
        "as 'photos/*.jpg', or the number of a webcam, such as 0, which q and "
        'Enter end',
    )
    add(
        '--out-dir',
        type=Path,
        default=Path('outputs'),
        help='folder for the picture, <image>.png or <video>.mp4, and the '
        'files of --format; of images with the same name, the next ones get '
        '<image>_2 and so on (default: outputs)',
    )
    add(
        '--format',
        nargs='+',
        default=[],
        choices=FORMATS,
        metavar='FORMAT',
        help='json: <image>.json; labels: <image>_labels.png, whose values '
        'are the labels, of segmentors; coco and csv: predictions_coco.json '
        'and predictions.csv of all images, and one file for each video '
        '(default: json, and labels of images)',
    )
    add(
        '--overwrite',
        action='store_true',
        help='replace files in --out-dir; never one of the images',
    )
    add(
        '--max-pixels',
        type=positive,
        default=os.environ.get(LIMIT) or PIXELS,
        help='leave out images with more pixels, which can need gigabytes '
        f'(default: ${LIMIT}, else {PIXELS})',
    )
    add(
        '--score-thr',
        type=fraction,
        default=0.3,
        help='lowest score of a detected object (default: 0.3)',
    )
    add(
        '--top',
        type=positive,
        default=5,
        help='number of classes of a classifier (default: 5)',
    )
    if exported:
        parser.add_argument(
            '--budget-ms',
            type=positive,
            help='time of the model for one image in milliseconds; larger '
            'images are made smaller, as far as this machine needs, or G1 and '
            'G2 are changed, if the file has a curve',
        )
        for name in ('--g1', '--g2'):
            parser.add_argument(
                name,
                type=sizes,
                metavar='A,B,C',
                help=f'{name[2:].upper()}, if it is an input of the file',
            )
    else:
        from mmhatnet.engine.cli import add_cfg_options

        add('--device', help='cpu, cuda:0, ... (default: a GPU if available)')
        add_cfg_options(parser)
    args = parser.parse_args()
    os.environ[LIMIT] = str(args.max_pixels)
    args.checkpoint = None
    # argparse could not tell a checkpoint from the first image.
    if args.model.endswith('.pt2'):
        parser.error('torch.export.load runs *.pt2; export it as *.onnx')
    if exported and not is_exported(args.model):
        parser.error('MODEL.onnx comes first, without the name of a model')
    if exported and is_weights(args.images[0]):
        parser.error(f'{args.model} has its weights: leave out the checkpoint')
    if not exported and is_checkpoint(args.model):
        parser.error(f'give a name or a config file before {args.model}')
    if not exported and is_checkpoint(args.images[0]):
        args.checkpoint = args.images.pop(0)
    if not args.images:
        parser.error('no images')
    return args


def is_exported(argument: str) -> bool:
    return argument.lower().endswith('.onnx')


def is_weights(argument: str) -> bool:
    return argument.lower().endswith(FILES)


def is_checkpoint(argument: str) -> bool:
    from mmhatnet.utils.hashes import split_pin

    location, pin = split_pin(argument)
    return bool(pin) or '://' in location or is_weights(location)


def load(args: argparse.Namespace) -> tuple[Callable[..., tuple], dict]:
    options = dict(score_thr=args.score_thr, top=args.top)
    if is_exported(args.model):
        from mmhatnet.runtime import OnnxModel

        model = OnnxModel(args.model, budget_ms=args.budget_ms)
        if args.g1 or args.g2:
            model.set_grids(args.g1, args.g2)
        return partial(model.predict, **options), model.metadata
    from mmhatnet.apis.inference import get_inferencer, predict
    from mmhatnet.apis.zoo import find_weights, load_model_config
    from mmhatnet.engine.cli import apply_options

    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    checkpoint = args.checkpoint or find_weights(args.model)
    inferencer = get_inferencer(cfg, checkpoint, args.device)
    kinds = dict(mmpretrain='classification', mmseg='segmentation')
    metadata = dict(
        kind=kinds.get(cfg.default_scope, 'detection'),
        classes=inferencer.model.dataset_meta.get('classes') or (),
    )
    return partial(predict, inferencer, **options), metadata


def main(exported: bool = False) -> None:
    from mmhatnet.deploy.predict_files import predict_all

    args = parse_args(exported)
    # What was predicted is saved after kill, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(
        predict_all(
            partial(load, args),
            args.images,
            args.out_dir,
            args.overwrite,
            args.format,
        )
    )


def main_without_torch() -> None:
    if 'mmhatnet' not in sys.modules:
        # Submodules of an empty package, since mmhatnet itself imports torch.
        spec = find_spec('mmhatnet')
        if not spec:
            sys.exit('infer.py: error: mmhatnet is not installed')
        package = ModuleType('mmhatnet')
        package.__path__ = spec.submodule_search_locations
        sys.modules['mmhatnet'] = package
    try:
        main(exported=True)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'infer.py: error: {error}')
    except KeyboardInterrupt:
        print('infer.py: interrupted', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    if any(map(is_exported, sys.argv[1:])):
        main_without_torch()
    else:
        from mmhatnet.engine.cli import one_line_errors

        with one_line_errors():
            main()
