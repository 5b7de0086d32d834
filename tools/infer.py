#!/usr/bin/env python
import argparse
import json
import sys
from pathlib import Path

import mmcv
from tqdm import tqdm

from mmhatnet.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)
from mmhatnet.inference import (
    SUFFIXES,
    find_images,
    get_inferencer,
    predict,
    unique_names,
    unreadable,
)
from mmhatnet.weights.download import split_pin
from mmhatnet.zoo import find_weights, load_model_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Predict for images with a model of any task: classes, '
        'segmentation, or boxes and masks.'
    )
    parser.usage = '%(prog)s MODEL [CHECKPOINT] IMAGES [IMAGES ...] [options]'
    parser.add_argument(
        'model', metavar='MODEL', help='name of a model, or config file'
    )
    parser.add_argument(
        'images',
        nargs='+',
        metavar='[CHECKPOINT] IMAGES',
        help='checkpoint: a file (*.pth), a URL or hatnet://NAME (default: '
        'the released weights of the model); then images, folders of images '
        "or patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('outputs'),
        help='folder for <image>.png (the picture), <image>.json (the result) '
        'and, for segmentors, <image>_labels.png (default: outputs)',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace files in --out-dir; never one of the images',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of a detected object (default: 0.3)',
    )
    parser.add_argument(
        '--top',
        type=positive,
        default=5,
        help='number of classes of a classifier (default: 5)',
    )
    parser.add_argument(
        '--device', help='cpu, cuda:0, ... (default: a GPU if available)'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    args.checkpoint = None
    # argparse could not tell a checkpoint from the first image.
    if is_checkpoint(args.images[0]):
        args.checkpoint = args.images.pop(0)
    if not args.images:
        parser.error('no images')
    return args


def is_checkpoint(argument: str) -> bool:
    location, pin = split_pin(argument)
    return bool(pin) or '://' in location or location.endswith('.pth')


def check_absent(names: list[str], out_dir: Path) -> None:
    targets = (out_dir / f'{n}{suffix}' for n in names for suffix in SUFFIXES)
    found = next((target for target in targets if target.exists()), None)
    if found:
        sys.exit(
            f'infer.py: error: {found} exists: choose another --out-dir, or '
            'give --overwrite'
        )


def summary(result: dict) -> str:
    if 'objects' in result:
        names = [found['name'] for found in result['objects']]
        counts = [
            f'{names.count(name)} {name}' for name in dict.fromkeys(names)
        ]
        return ', '.join(counts) or 'nothing'
    return ', '.join(
        f'{found["name"]} {100 * found.get("score", found.get("share")):.1f} %'
        for found in result['classes'][:3]
    )


def main() -> None:
    args = parse_args()
    paths = find_images(args.images)
    names = list(unique_names(paths, args.out_dir))
    if not args.overwrite:
        check_absent(names, args.out_dir)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    checkpoint = args.checkpoint or find_weights(args.model)
    inferencer = get_inferencer(cfg, checkpoint, args.device)
    skipped = []
    for path, name in zip(tqdm(paths, unit='image'), names, strict=True):
        reason = unreadable(path)
        if not reason:
            try:
                result, picture, labels = predict(
                    inferencer, path, args.score_thr, args.top
                )
            except Exception as error:  # what libraries raise for odd images
                reason = f'{type(error).__name__}: {error}'
        if reason:
            tqdm.write(f'{path}: skipped: {reason}', sys.stderr)
            skipped.append(path)
            continue
        target = str(args.out_dir / name)
        if picture is not None:
            mmcv.imwrite(picture[..., ::-1], f'{target}.png')
        if labels is not None:
            mmcv.imwrite(labels, f'{target}_labels.png')
        Path(f'{target}.json').write_text(
            json.dumps(dict(image=str(path), **result), indent=1)
        )
        tqdm.write(f'{path}: {summary(result)}')
    print(f'{len(paths) - len(skipped)} results in {args.out_dir}')
    if skipped:
        sys.exit(f'{len(skipped)} of {len(paths)} images were skipped')


if __name__ == '__main__':
    with one_line_errors():
        main()
