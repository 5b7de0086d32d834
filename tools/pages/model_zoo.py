#!/usr/bin/env python
"""Updates the metafiles, and the tables of the pages that show them."""

import argparse
import re
import sys
from pathlib import Path

import yaml
from tqdm import tqdm

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import markdown_table
from mmhatnet.cli import one_line_errors
from mmhatnet.config import read_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = ('README.md', 'docs/model_zoo.md')


def metafiles() -> list[Path]:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    return [ROOT / name for name in index['Import']]


def update_costs(text: str) -> str:
    """Update parameters and operations in the text of a metafile."""
    content = yaml.safe_load(text)
    for model in tqdm(content['Models'], leave=False):
        metadata = model['Metadata']
        shape = tuple(map(int, metadata['Input Size'].split('x')))
        result = measure_complexity(read_config(ROOT / model['Config']), shape)
        metadata['FLOPs'] = result.operations
        metadata['Parameters'] = result.params
    return yaml.safe_dump(content, sort_keys=False, width=100)


def table(metafile: Path, up: str) -> str:
    """Table of the models of a metafile; ``up`` leads to the root."""
    models = yaml.safe_load(metafile.read_text())['Models']
    metrics = {
        name: None
        for model in models
        for result in model['Results']
        for name in result['Metrics']
    }
    rows = []
    for model in models:
        metadata = model['Metadata']
        found = {
            name: value
            for result in model['Results']
            for name, value in result['Metrics'].items()
        }
        weights = metadata['Released Weights']
        if 'Weights' in model:
            weights = f'[{weights}]({model["Weights"]})'
        rows.append(
            {
                'model': f'[{model["Name"]}]({up}{model["Config"]})',
                'input': metadata['Input Size'],
                '#Param (M)': f'{metadata["Parameters"] / 1e6:.2f}',
                '#FLOPs (G)': f'{metadata["FLOPs"] / 1e9:.2f}',
                # The pages have the asterisk at the numbers.
                **{
                    name.rstrip('*'): f'{found[name]}\\*'
                    if name in found
                    else ''
                    for name in metrics
                },
                'weights': weights,
            }
        )
    return markdown_table(rows)


def with_tables(page: Path) -> str:
    """Text of a page with current tables.

    They are between ``<!-- models: FOLDER -->`` and ``<!-- end -->``.
    """
    up = '../' * (len(page.relative_to(ROOT).parts) - 1)
    return re.sub(
        r'(<!-- models: (\w+) -->\n).*?(<!-- end -->)',
        lambda match: (
            match[1]
            + table(ROOT / 'configs' / match[2] / 'metafile.yml', up)
            + f'\n{match[3]}'
        ),
        page.read_text(),
        flags=re.DOTALL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure the parameters and operations in the metafiles, '
        f'and update the model tables of {" and ".join(PAGES)}.'
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='change nothing; fail if something would change',
    )
    args = parser.parse_args()
    changed = []

    def update(path: Path, text: str) -> None:
        if text != path.read_text():
            changed.append(str(path.relative_to(ROOT)))
            if not args.check:
                path.write_text(text)

    for metafile in tqdm(metafiles(), unit='metafile'):
        update(metafile, update_costs(metafile.read_text()))
    for name in PAGES:
        update(ROOT / name, with_tables(ROOT / name))
    if args.check and changed:
        sys.exit(
            f'model_zoo.py: error: not current: {", ".join(changed)}; run '
            'tools/pages/model_zoo.py'
        )
    print('changed:', *changed or ['nothing'])


if __name__ == '__main__':
    with one_line_errors():
        main()
