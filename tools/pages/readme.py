#!/usr/bin/env python
"""The first picture of the README, and its numbers from the data of docs/."""

import argparse
from pathlib import Path

import numpy as np
import torch
from common import (
    CLASSIFIERS,
    DOCS,
    ROOT,
    fill_page,
    make_figure,
    read_json,
    save_figure,
)
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
SMALL = 'HAT-Net-Small'


def describe_gains() -> str:
    """Write what HAT-Net gains, with the numbers that docs/ has."""
    sizes = {
        (row['backbone'], row['size']): row
        for row in read_csv(DOCS / 'scaling.csv')
    }
    base = f'{SMALL}, G2 8, 4, 2'
    few, many = sizes[f'{SMALL}, G2 32, 16, 8', 1536], sizes[base, 1536]

    def in_turns(mine: dict, other: dict) -> str:
        pairs = zip(mine['seconds'], other['seconds'], strict=True)
        return show_ratios([own / theirs for own, theirs in pairs])

    single, larger = (
        in_turns(sizes[base, side], sizes['Swin-T', side])
        for side in (224, 384)
    )
    rows = {
        row['model']: row
        for row in read_csv(DOCS / 'benchmark.csv')
        if row['case'] == 'inference, 224x224 (H x W), batch 8'
        and row['form'] == 'eager'
    }
    ours, swin = rows['hatnet-small_8xb128_in1k'], rows[CLASSIFIERS['Swin-T']]
    threads = ours['machine'].partition(' with')[0]
    timings = read_json(DOCS / 'gpu' / 'h100.json')['timings']

    def on_gpu(dtype: str, width: int = 224, train: bool = False) -> float:
        own, theirs = (
            row['milliseconds']
            for name in (SMALL, 'Swin-T')
            for row in timings
            if (row['backbone'], row['dtype']) == (name, dtype)
            and (row['shape'][3], row['train']) == (width, train)
        )
        return own / theirs

    return (
        '- **Exact at any size.** G1 and G2 need not divide the map: windows '
        'and pooled\n  cells at the border contain only the tokens that '
        "exist. Outputs equal those\n  of the authors' code "
        '([test](tests/test_models/test_parity.py)), gradients those of plain '
        'loops ([test](tests/test_fuzz.py)).\n'
        '- **One file for all sizes.** An [exported](docs/deployment.md) ONNX '
        'file takes images of\n  any size, with `--free-grids` also any G1 '
        'and G2, from pixels to boxes, without torch.\n'
        '- **A dial.** G1 and G2 can be changed on a trained model. At '
        '1536x1536, HAT-Net-Small with\n  G2 of 32, 16, 8 takes '
        f'{few["operations"] / many["operations"]:.2f} times the operations '
        f'and {in_turns(few, many)} times the time of\n  '
        '8, 4, 2 ([scaling](docs/scaling.md)); accuracy is in '
        '[G1 and G2](docs/grids.md).\n'
        '- **Speed, as measured** (medians; ranges where stored). '
        f'HAT-Net-Small takes {in_turns(ours, swin)} times the time of\n'
        '  Swin-T and '
        f'{ours["memory"] / swin["memory"]:.2f} times the memory for 8 images '
        f'of 224x224 on [{threads}](docs/benchmark.md),\n  but '
        f'{single} times the time for one, and {larger} at '
        '[384x384](docs/scaling.md). On an [H100](docs/gpu.md), before\n  our '
        f'kernels, {on_gpu("float32"):.2f} times in float32 '
        f'({on_gpu("float32", 1344):.2f} at 800x1344), '
        f'{on_gpu("bfloat16"):.2f} in bfloat16, '
        f'{on_gpu("bfloat16", train=True):.2f} in its training.'
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
