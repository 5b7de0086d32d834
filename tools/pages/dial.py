#!/usr/bin/env python
"""Shows the curve of an exported file in docs/grids.md."""

import argparse
from pathlib import Path

from common import DOCS, fill_page, read_json, save_figure, span, write_json

from mmhatnet.deploy.curve import draw_curve
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.runtime import OnnxModel

DATA = DOCS / 'sweeps' / 'dial.json'


def show_curve(curve: dict) -> str:
    """Make the figure, and say what G1 and G2 add to the size of images."""
    save_figure(draw_curve(curve), DATA.with_suffix('.png'))
    rows, metric = curve['rows'], curve['metric']
    rivals = [row for row in rows if row['configured']]
    gains = [
        max(x['metric'] for x in rows if x['ms'] <= rival['ms'])
        - rival['metric']
        for rival in rivals
    ]
    times = span([row['ms'] for row in rows], '.0f')
    return (
        f'![{metric} against time, a line for each G1 and '
        f'G2](sweeps/dial.png)\n\nThe file is `{curve["model"]}`, on '
        f'{curve["machine"]}: {len(rows)} settings of one\nfile take {times} '
        'ms. A cheap rival leaves G1 and G2 as they are, and changes\nthe '
        f'size of the images alone. In the time of each of its {len(rivals)} '
        f'sizes, the best setting\nreaches {span(gains, ".3f")} more '
        f'{metric}.'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/grids.md from docs/sweeps/dial.json, or from '
        'the curve of a file, which is stored there first.'
    )
    add = parser.add_argument
    add('file', nargs='?', type=Path, metavar='FILE.onnx')
    file = parser.parse_args().file
    if file:
        metadata = OnnxModel(file).metadata
        grids = metadata['G1'], metadata['G2']
        curve = metadata['curve'] | dict(model=file.stem)
        for row in curve['rows']:
            row['configured'] = (row['G1'], row['G2']) == grids
        write_json(DATA, curve)
    curve = read_json(DATA)
    fill_page(DOCS / 'grids.md', dict(curve=show_curve(curve)))


if __name__ == '__main__':
    with one_line_errors():
        main()
