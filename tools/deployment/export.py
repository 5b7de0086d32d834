#!/usr/bin/env python
import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmhatnet.analysis.report import markdown_table
from mmhatnet.cli import add_cfg_options, apply_options, one_line_errors
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
        '--out', type=Path, help='file to write (default: exports/MODEL.*)'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    suffix = SUFFIXES[args.format]
    args.out = args.out or Path('exports', Path(args.model).stem + suffix)
    if args.out.suffix != suffix:
        parser.error(f'--out of --format {args.format} ends in {suffix}')
    return args


def load_program(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(images: np.ndarray) -> list[np.ndarray]:
        found = module(torch.from_numpy(images))
        found = (found,) if torch.is_tensor(found) else found
        return [each.numpy() for each in found]

    return run


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    checkpoint = args.checkpoint or find_weights(args.model)
    graph = make_graph(get_model(cfg, checkpoint))
    metadata = export.describe(graph, cfg, checkpoint)
    print('exporting (half a minute to some minutes)', flush=True)
    program = export.export_program(graph)
    # Under its name only when it is verified.
    part = args.out.with_name(f'.part{os.getpid()}{args.out.name}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if args.format == 'onnx':
            export.save_onnx(program, metadata, part)
            run = OnnxModel(part).run
        else:
            export.save_program(program, metadata, part)
            run = load_program(part)
        rows = export.verify(graph, run, metadata['kind'])
        table = [
            {
                'images': str(row['images']),
                'size': f'{row["height"]}x{row["width"]}',
                'largest relative difference': f'{row["error"]:.1e}',
            }
            for row in rows
        ]
        print(markdown_table(table))
        export.check_errors(rows)
        if not any(row.get('objects', 1) for row in rows):
            print('nothing was found in random images, so no box was compared')
        part.replace(args.out)
    finally:
        part.unlink(missing_ok=True)
    print(json.dumps({k: metadata[k] for k in ('kind', 'G1', 'G2')}))
    print(f'{args.out}, {args.out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    with one_line_errors():
        main()
