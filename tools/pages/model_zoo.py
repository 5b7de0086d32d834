#!/usr/bin/env python
"""Measures the parameters and operations in the metafiles of our models.

Then it updates the tables of README.md and docs/model_zoo.md, and the README
of each folder of configs.
"""

import argparse
import re
from pathlib import Path

import yaml
from common import DOCS, ROOT, fill_regions, read_json, write_json
from mmengine.config import Config
from reproduction.experiments import (
    METRICS,
    find_experiment,
    list_experiments,
)
from reproduction.result import check_result, read_result
from tqdm import tqdm

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import markdown_table
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import precision_of
from mmhatnet.utils.atomic import write_text
from mmhatnet.utils.config import read_config
from mmhatnet.utils.hashes import sha256_of
from mmhatnet.weights.releases import list_shipped

RESULTS = DOCS / 'reproductions'
TITLES = dict(
    hatnet='HAT-Net on ImageNet (Table 2)',
    sem_fpn='Semantic FPN on ADE20K (Table 3)',
    upernet='UPerNet on ADE20K',
    mask2former='Mask2Former on ADE20K',
    retinanet='RetinaNet on COCO (Table 4)',
    mask_rcnn='Mask R-CNN on COCO (Tables 4 and 6)',
    faster_rcnn='Faster R-CNN on COCO',
    cascade_rcnn='Cascade Mask R-CNN on COCO',
    ablation='Ablations (Table 5 and Sec. 4.4)',
    demo='Demo data',
    shipped='Small models whose weights are in the package',
)
NOTES = dict(
    ablation='Designs 1 to 4 of Table 5 have H-MHSA in none of the stages 0 '
    'to 2, in stage 0,\nin stages 0 and 1, and in all three, and only window '
    'attention in the others.\n\n',
)
PAGES = ('README.md', 'docs/model_zoo.md')


def metafiles() -> list[Path]:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text('utf-8'))
    return [ROOT / name for name in index['Import']]


def read_models(metafile: Path) -> list[dict]:
    return yaml.safe_load(metafile.read_text('utf-8'))['Models']


def store(path: Path, folder: Path) -> Path:
    """Check a result of tools/reproduce.py, and store it for the zoo.

    Raises:
        ValueError: If it is incomplete or does not fit its row.
    """
    result = read_result(path)
    if not result:
        raise ValueError(f'{path} is not a result')
    row = find_experiment(str(result.get('row')))
    check_result(result, row, path)
    write_json(folder / f'{row.name}.json', result)
    return folder / f'{row.name}.json'


def reproduced(name: str) -> dict[str, dict]:
    """Metrics of a stored result, by their names."""
    return read_result(RESULTS / f'{name}.json').get('metrics', {})


def add_training(model: dict, cfg: Config) -> None:
    """Copy what the log of a training says to its entry and its config."""
    metadata = model['Metadata']
    record = read_json(ROOT / metadata['Training Log'])
    options = {'randomness.seed': record['seed']}
    # A CPU without bfloat16 trains in float32 by itself.
    if record['precision'] not in (precision_of(cfg), 'float32'):
        options['optim_wrapper.type'] = 'AmpOptimWrapper'
        options['optim_wrapper.dtype'] = record['precision']
    given = ' '.join(f'{key}={value}' for key, value in options.items())
    step = (
        f'epoch_{metadata["Epochs"]}'
        if 'Epochs' in metadata
        else f'iter_{metadata["Iterations"]}'
    )
    starts = record.get('training', [record])
    machines = dict.fromkeys(start['machine'] for start in starts)
    metadata |= {
        'Training Resources': '; '.join(machines),
        'Training Command': 'python tools/train.py '
        f'configs/evidence/{record["config"]}.py --cfg-options {given}',
        'Publishing Command': (
            'python tools/model_converters/publish_model.py '
            f'work_dirs/{record["config"]}/{step}.pth '
            f'mmhatnet/weights/shipped --name {model["Name"]} --half'
        ),
        'Trained At Commit': record['commit'],
        'SHA256': sha256_of(list_shipped()[model['Name']]),
    }
    last = record['curve'][-1]
    measured = {
        name: round(factor * last[key], 1)
        for name, (key, factor, _) in METRICS.items()
        if key in last
    }
    for result in model['Results']:
        result['Metrics'] = dict(measured)


def add_reproduction(model: dict) -> None:
    """Copy what was measured on the paper's data beside the paper's."""
    gpus = re.search(r'_(\d+)xb', model['Name'])[1]
    model['Metadata']['Training Resources'] = f'{gpus} GPUs'
    found = reproduced(model['Name'])
    for entry in model['Results']:
        printed = entry['Metrics']
        for name in [name.rstrip('*') for name in printed if star(name)]:
            # A result that was withdrawn goes as well.
            printed.pop(name, None)
            if name in found:
                printed[name] = found[name]['measured']


def update(text: str) -> str:
    """Update what is measured in the text of a metafile."""
    content = yaml.safe_load(text)
    for model in tqdm(content['Models'], leave=False):
        metadata = model['Metadata']
        cfg = read_config(ROOT / model['Config'])
        shape = tuple(map(int, metadata['Input Size'].split('x')))
        result = measure_complexity(cfg, shape)
        metadata['FLOPs'] = result.operations
        metadata['Parameters'] = result.params
        metadata['Batch Size'] = cfg.auto_scale_lr.base_batch_size
        if 'Training Log' in metadata:
            add_training(model, cfg)
        else:
            add_reproduction(model)
    return yaml.safe_dump(content, sort_keys=False, width=100)


def readme(metafile: Path) -> str:
    """The page of a folder of configs."""
    folder = metafile.parent.name
    first, *_ = read_models(metafile)
    metadata = first['Metadata']
    command = metadata.get('Training Command')
    if not command:
        gpus = metadata['Training Resources'].split()[0]
        command = f'tools/dist_train.sh {first["Config"]} {gpus}'
    shape = metadata['Input Size'].replace('x', ' ')
    return f"""\
# {TITLES[folder]}

> [Vision Transformers with Hierarchical Attention](https://arxiv.org/abs/2106.03180)

Made by `python tools/pages/model_zoo.py` from [metafile.yml](metafile.yml).
Numbers with an asterisk are the paper's, and those without were measured with
our configs.
The [model zoo](../../docs/model_zoo.md) says how they are counted.

{NOTES.get(folder, '')}{table(metafile, '../../')}

The first recipe has a batch of {metadata['Batch Size']} images, and \
{', '.join(metadata['Training Techniques'])}.

```bash
{command}
python tools/analysis_tools/get_flops.py {first['Name']} --shape {shape}
```
"""


def table(metafile: Path, up: str) -> str:
    """Table of the models of a metafile; ``up`` leads to the root."""
    models = read_models(metafile)
    metrics = {
        name: None
        for model in models
        for result in model['Results']
        for name in sorted(result['Metrics'], reverse=True)
    }
    rows = []
    for model in models:
        metadata, found = model['Metadata'], {}
        for result in model['Results']:
            found |= result['Metrics']
        weights = metadata['Released Weights']
        if model.get('Weights', '').startswith('https://'):
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


def settings() -> str:
    """Table of the rows of Table 6 that were reproduced."""
    rows = []
    for name in list_experiments():
        if name.startswith('table6') and (found := reproduced(name)):
            pairs = {
                key: f'{metric["printed"]}\\*; {metric["measured"]}'
                for key, metric in found.items()
            }
            rows.append(dict(row=name) | pairs)
    return (
        markdown_table(rows) if rows else 'None of them has been reproduced.'
    )


def star(name: str) -> str:
    return '\\*' if name.endswith('*') else ''


def title(name: str) -> str:
    return name.rstrip('*') if star(name) else f'{name}, measured'


def with_tables(page: Path) -> str:
    """Text of a page with current tables."""
    up = '../' * (len(page.relative_to(ROOT).parts) - 1)
    text = page.read_text('utf-8')
    text = fill_regions(text, 'rows of Table 6', settings)
    return fill_regions(
        text,
        r'models: (\w+)',
        lambda name: table(ROOT / 'configs' / name / 'metafile.yml', up),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--add',
        nargs='+',
        type=Path,
        default=(),
        metavar='RESULT.json',
        help='first check results of tools/reproduce.py, ours or yours, and '
        'store them in docs/reproductions',
    )
    for path in parser.parse_args().add:
        print(store(path, RESULTS))
    for metafile in tqdm(metafiles(), unit='metafile'):
        write_text(metafile, update(metafile.read_text('utf-8')))
        write_text(metafile.with_name('README.md'), readme(metafile))
    for name in PAGES:
        write_text(ROOT / name, with_tables(ROOT / name))


if __name__ == '__main__':
    with one_line_errors('reproduction'):
        main()
