#!/usr/bin/env python
"""The first picture of the README, and its numbers from the data of docs/."""

import argparse
from pathlib import Path

import numpy as np
import torch
from common import DOCS, ROOT, fill_page, make_figure, read_json, save_figure
from matplotlib.axes import Axes
from mmengine.dataset import pseudo_collate
from torch import Tensor

import mmhatnet
from mmhatnet.analysis.attention import attend_from
from mmhatnet.analysis.attention_figure import draw_window, extent_of
from mmhatnet.analysis.report import read_csv, show_ratios
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.runtime.images import read_image

PICTURE = DOCS / 'images' / 'overview.jpg'
SWIN = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'


def describe_gains() -> str:
    """Write what HAT-Net gains, with the numbers that docs/ has."""
    sizes = {
        (row['backbone'].partition(', G2 ')[2], row['size']): row
        for row in read_csv(DOCS / 'scaling.csv')
    }
    few, many = sizes['32, 16, 8', 1536], sizes['8, 4, 2', 1536]
    rows = {
        row['model']: row
        for row in read_csv(DOCS / 'benchmark.csv')
        if row['case'] == 'inference, 224x224 (H x W), batch 8'
        and row['form'] == 'eager'
    }
    ours, swin = rows['hatnet-small_8xb128_in1k'], rows[SWIN]
    pairs = zip(ours['seconds'], swin['seconds'], strict=True)
    speeds = show_ratios([theirs / own for own, theirs in pairs])
    times = {
        (row['train'], row['dtype'], row['backbone']): row['milliseconds']
        for row in read_json(DOCS / 'gpu' / 'h100.json')['timings']
        if row['shape'][2:] == [224, 224]
    }
    on_gpu = [
        times[(*case, 'HAT-Net-Small')] / times[(*case, 'Swin-T')]
        for case in (
            (False, 'float32'),
            (False, 'bfloat16'),
            (True, 'bfloat16'),
        )
    ]
    return (
        '- **Exact at any size.** G1 and G2 need not divide the map: windows '
        'and pooled\n  cells at the border contain only the tokens that '
        "exist. Outputs and gradients equal\n  those of the authors' code "
        'wherever that code runs ([test](tests/test_models/test_parity.py)).\n'
        '- **One file for all sizes.** An [exported](docs/deployment.md) ONNX '
        'file takes images of\n  any size, with any G1 and G2, from pixels to '
        'boxes, and needs no torch.\n'
        '- **A dial.** G1 and G2 can be changed on a trained model. At '
        '1536x1536, HAT-Net-Small with\n  G2 of 32, 16, 8 takes '
        f'{few["operations"] / many["operations"]:.2f} times the operations '
        f'and {few["seconds"] / many["seconds"]:.2f} times the time of\n  '
        '8, 4, 2 ([scaling](docs/scaling.md)); accuracy is in '
        '[G1 and G2](docs/grids.md).\n'
        f'- **Fast on CPUs.** HAT-Net-Small predicts {speeds} times '
        'as fast as Swin-T\n  at 224x224, with '
        f'{ours["memory"] / swin["memory"]:.2f} times the memory '
        '([benchmark](docs/benchmark.md), 2 CPU threads).\n  '
        'On a GPU it takes '
        f'{on_gpu[0]:.2f} times the time of Swin-T in float32, but '
        f'{on_gpu[1]:.2f} in bfloat16,\n  and {on_gpu[2]:.2f} in a training '
        'step in bfloat16 ([H100](docs/gpu.md)).'
    )


def predict(name: str, path: Path) -> np.ndarray:
    """Predict with weights of the package, and draw the picture."""
    inferencer = mmhatnet.get_inferencer(name, device='cpu')
    return mmhatnet.apis.predict(inferencer, path, score_thr=0.4)[1]


def show(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title, fontsize=10)
    axes.axis('off')


def draw_picture(shapes: Path, trees: Path, point: tuple[int, int]) -> None:
    """Draw two predictions, and the attention of a point in stage 1.

    Args:
        shapes (Path): An image for ``shape-segmentor``.
        trees (Path): An image for ``tree-detector``.
        point (tuple[int, int]): x and y in ``shapes``.
    """
    model = mmhatnet.get_model('shape-segmentor', pretrained=True)
    image = read_image(shapes)
    data = dict(inputs=torch.from_numpy(image.transpose(2, 0, 1).copy()))
    batch = model.data_preprocessor(pseudo_collate([data]))
    found = attend_from(model.backbone, batch['inputs'][:1], point)[1]
    figure, panels = make_figure(1, 4, size=(12, 3), dpi=110)
    show(panels[0], predict('shape-segmentor', shapes), 'segmentation')
    show(panels[1], predict('tree-detector', trees), 'detection')
    window = extent_of(image, found, *found.window)
    whole = (0, image.shape[1], image.shape[0], 0)

    def overlay(axes: Axes, weights: Tensor, extent: tuple, title: str):
        show(axes, image[..., ::-1].mean(2) / 510, title)
        axes.images[0].set(cmap='gray', clim=(0, 1))
        axes.imshow(weights.mean(0), cmap='inferno', alpha=0.75, extent=extent)
        axes.set(xlim=whole[:2], ylim=whole[2:])
        axes.plot(*point, '+', ms=10, mew=2, color='white')
        draw_window(axes, window)

    title = f'local attention of a point, G1 = {found.grid_size}'
    overlay(panels[2], found.local, window, title)
    title = f'global attention, pooled by G2 = {found.ds_ratio}'
    overlay(panels[3], found.pooled, whole, title)
    save_figure(figure, PICTURE, pil_kwargs=dict(quality=88))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--picture',
        nargs=4,
        metavar=('SHAPES', 'TREES', 'X', 'Y'),
        help='draw the picture of these images, and of this point in the '
        'first of them',
    )
    args = parser.parse_args()
    if args.picture:
        shapes, trees, *point = args.picture
        draw_picture(Path(shapes), Path(trees), tuple(map(int, point)))
    fill_page(ROOT / 'README.md', dict(gains=describe_gains()))


if __name__ == '__main__':
    with one_line_errors():
        main()
