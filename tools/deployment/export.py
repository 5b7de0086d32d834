#!/usr/bin/env python
import argparse
import json
import sys
from pathlib import Path

import torch

from mmhatnet.analysis.report import markdown_table
from mmhatnet.cli import (
    add_cfg_options,
    apply_options,
    grid,
    one_line_errors,
)
from mmhatnet.deploy import export
from mmhatnet.deploy.graphs import make_graph
from mmhatnet.deploy.runtime import OnnxModel
from mmhatnet.zoo import find_weights, get_model, load_model_config

SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Export a model of any task to one file that is right for '
        'images of any size, and compare the file with PyTorch.'
    )
    parser.add_argument('model', help='name of a model, or config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='file, URL or hatnet://NAME (default: the released weights)',
    )
    parser.add_argument(
        '--format',
        choices=SUFFIXES,
        default='onnx',
        help='onnx, for tools/infer.py and other programs, or torch-export, '
        'for torch.export.load and AOTInductor (default: onnx)',
    )
    parser.add_argument(
        '--g1', type=grid, metavar='A,B,C', help='G1 (default: as configured)'
    )
    parser.add_argument(
        '--g2', type=grid, metavar='A,B,C', help='G2 (default: as configured)'
    )
    parser.add_argument(
        '--out', type=Path, help='file to write (default: exports/MODEL.*)'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    suffix = SUFFIXES[args.format]
    args.out = args.out or Path('exports', Path(args.model).stem + suffix)
    if args.out.suffix != suffix:
        parser.error(f'--out of --format {args.format} ends in {suffix}')
    return args


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    checkpoint = args.checkpoint or find_weights(args.model)
    model = get_model(cfg, checkpoint)
    model.backbone.set_grids(args.g1, args.g2)
    graph = make_graph(model)
    metadata = export.describe(graph, cfg, checkpoint)
    print('exporting (half a minute to some minutes)', flush=True)
    program = export.export_program(graph)
    if args.format == 'onnx':
        export.save_onnx(program, metadata, args.out)
        run = OnnxModel(args.out).run
    else:
        export.save_program(program, metadata, args.out)
        module = torch.export.load(args.out).module()

        def run(images):
            found = module(torch.from_numpy(images))
            found = (found,) if torch.is_tensor(found) else found
            return [each.numpy() for each in found]

    rows = export.verify(graph, run, metadata['kind'])
    print(
        markdown_table(
            [
                {
                    'images': str(row['images']),
                    'size': f'{row["height"]}x{row["width"]}',
                    'largest relative difference': f'{row["error"]:.1e}',
                }
                for row in rows
            ]
        )
    )
    worst = max(row['error'] for row in rows)
    if not worst <= export.TOLERANCE:
        args.out.unlink()
        sys.exit(
            f'export.py: error: the file differs from PyTorch by {worst:.1e}, '
            f'more than {export.TOLERANCE}, and was deleted'
        )
    print(json.dumps({k: metadata[k] for k in ('kind', 'G1', 'G2')}))
    print(f'{args.out}, {args.out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    with one_line_errors():
        main()
