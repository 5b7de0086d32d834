#!/usr/bin/env python
"""Updates the metafiles, and the tables of the pages that show them."""

import argparse
import json
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
RESULTS = ROOT / 'docs' / 'reproductions'
PAGES = ('README.md', 'docs/model_zoo.md')


def metafiles() -> list[Path]:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    return [ROOT / name for name in index['Import']]


def reproduced(name: str) -> dict[str, float]:
    """Metrics that reproductions.py has stored, by their names."""
    path = RESULTS / f'{name}.json'
    if not path.exists():
        return {}
    metrics = json.loads(path.read_text())['metrics']
    return {key: value['measured'] for key, value in metrics.items()}


def update(text: str) -> str:
    """Update what is measured in the text of a metafile."""
    content = yaml.safe_load(text)
    for model in tqdm(content['Models'], leave=False):
        metadata = model['Metadata']
        shape = tuple(map(int, metadata['Input Size'].split('x')))
        result = measure_complexity(read_config(ROOT / model['Config']), shape)
        metadata['FLOPs'] = result.operations
        metadata['Parameters'] = result.params
        found = reproduced(model['Name'])
        for entry in model['Results']:
            printed = entry['Metrics']
            names = [name.rstrip('*') for name in printed]
            printed.update(
                {name: found[name] for name in names if name in found}
            )
    return yaml.safe_dump(content, sort_keys=False, width=100)


def table(metafile: Path, up: str) -> str:
    """Table of the models of a metafile; ``up`` leads to the root."""
    models = yaml.safe_load(metafile.read_text())['Models']
    metrics = {
        name: None
        for model in models
        for result in model['Results']
        for name in sorted(result['Metrics'], reverse=True)
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
                # The pages have the asterisk at the numbers of the paper.
                **{
                    title(name): f'{found[name]}{star(name)}'
                    if name in found
                    else ''
                    for name in metrics
                },
                'weights': weights,
            }
        )
    return markdown_table(rows)


def star(name: str) -> str:
    return '\\*' if name.endswith('*') else ''


def title(name: str) -> str:
    return name.rstrip('*') if star(name) else f'{name}, reproduced'


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

    def replace(path: Path, text: str) -> None:
        if text != path.read_text():
            changed.append(str(path.relative_to(ROOT)))
            if not args.check:
                path.write_text(text)

    for metafile in tqdm(metafiles(), unit='metafile'):
        replace(metafile, update(metafile.read_text()))
    for name in PAGES:
        replace(ROOT / name, with_tables(ROOT / name))
    if args.check and changed:
        sys.exit(
            f'model_zoo.py: error: not current: {", ".join(changed)}; run '
            'tools/pages/model_zoo.py'
        )
    print('changed:', *changed or ['nothing'])


if __name__ == '__main__':
    with one_line_errors():
        main()
