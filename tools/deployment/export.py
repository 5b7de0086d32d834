#!/usr/bin/env python
import argparse
import logging
import signal
import sys
import warnings
from pathlib import Path

from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.sweep import name_sizes
from mmhatnet.apis.zoo import find_weights, get_model, load_model_config
from mmhatnet.deploy.graphs import make_graph
from mmhatnet.deploy.predict_files import find_images
from mmhatnet.deploy.verification import TOLERANCES
from mmhatnet.deploy.writer import SUFFIXES, export_files
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    ds_ratios,
    grid_sizes,
    one_line_errors,
)
from mmhatnet.models.archs import Grids
from mmhatnet.utils.atomic import check_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Export a model of any task to one file that is correct '
        'for images of any size, and compare the file with PyTorch.'
    )
    add = parser.add_argument
    add('model', help='name of a model, or config file')
    add(
        'checkpoint',
        nargs='?',
        help='file, URL or hatnet://NAME (default: the released weights)',
    )
    add(
        '--format',
        choices=SUFFIXES,
        default='onnx',
        help='onnx, for tools/infer.py and other programs, or torch-export, '
        'for torch.export.load and AOTInductor (default: onnx)',
    )
    add(
        '--out',
        type=Path,
        help='file to write; one that exists is replaced '
        '(default: exports/MODEL.*)',
    )
    add(
        '--precision',
        choices=TOLERANCES,
        default='float32',
        help='precision of the ONNX file (default: float32)',
    )
    add(
        '--calibrate',
        nargs='+',
        metavar='IMAGES',
        help='images, folders or patterns for --precision int8: some dozens '
        'of images like those that the model will see',
    )
    add(
        '--free-grids',
        action='store_true',
        help='make G1 and G2 inputs of the ONNX file, which OnnxModel can '
        'change between two images; --g1 and --g2 are the first ones',
    )
    add(
        '--g1',
        type=grid_sizes,
        metavar='A,B,C',
        help='G1 (default: as configured)',
    )
    add(
        '--g2',
        type=ds_ratios,
        metavar='A,B,C',
        help="G2, or 'auto' (default: as configured)",
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.precision != 'float32' and args.format != 'onnx':
        parser.error('--precision is for --format onnx')
    if (args.precision == 'int8') != bool(args.calibrate):
        parser.error('--precision int8 and --calibrate need each other')
    if args.format != 'onnx' and args.free_grids:
        parser.error('--free-grids is for --format onnx')
    args.calibration = find_images(args.calibrate or ())
    suffix = SUFFIXES[args.format]
    args.out = args.out or Path('exports', Path(args.model).stem + suffix)
    if args.out.suffix != suffix:
        parser.error(
            f'with --format {args.format}, --out must end in {suffix}'
        )
    check_folder(args.out.parent)
    if args.out.is_dir():
        parser.error(f'--out is a file, and {args.out} a folder')
    return args


def report(setting: Grids, rows: list[dict]) -> None:
    table = [
        {
            'images': str(row['images']),
            'size': f'{row["height"]}x{row["width"]}',
            'largest relative difference': f'{row["error"]:.1e}',
        }
        for row in rows
    ]
    g1, g2 = map(name_sizes, setting)
    print(f'G1 {g1}; G2 {g2}:\n{markdown_table(table)}')
    if not any(row.get('objects', 1) for row in rows):
        print('nothing was found in random images, so no box was compared')


def main() -> None:
    args = parse_args()
    # Remove what is not complete, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # torch warns of operators that no model has here, and of its own future.
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    warnings.simplefilter('ignore', FutureWarning)
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    checkpoint = args.checkpoint or find_weights(args.model)
    graph = make_graph(get_model(cfg, checkpoint))
    graph.model.backbone.set_grids(args.g1, args.g2)
    print('exporting (one to five minutes)', flush=True)
    export_files(
        graph,
        cfg,
        checkpoint,
        args.out,
        args.free_grids,
        args.precision,
        args.calibration,
        report,
    )
    print(f'{args.out}, {args.out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    with one_line_errors():
        main()
