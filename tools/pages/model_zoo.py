#!/usr/bin/env python
"""Updates the metafiles, and the tables of the pages that show them."""

import argparse
import json
import re
import sys
from pathlib import Path

import yaml
from mmengine.config import Config
from tqdm import tqdm

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import markdown_table
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import precision_of
from mmhatnet.utils.config import read_config
from mmhatnet.utils.hashes import sha256_of
from mmhatnet.weights.releases import list_shipped

sys.path.append(str(Path(__file__).resolve().parents[1]))
from reproduction.experiments import METRICS, list_experiments

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'docs' / 'reproductions'
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
PAGES = ('README.md', 'docs/model_zoo.md')


def metafiles() -> list[Path]:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text('utf-8'))
    return [ROOT / name for name in index['Import']]


def reproduced(name: str) -> dict[str, float]:
    """Metrics that reproductions.py has stored, by their names."""
    path = RESULTS / f'{name}.json'
    if not path.exists():
        return {}
    metrics = json.loads(path.read_text('utf-8'))['metrics']
    return {key: value['measured'] for key, value in metrics.items()}


def add_training(model: dict, cfg: Config) -> None:
    """Copy what the log of a training says to its entry and its config."""
    metadata = model['Metadata']
    record = json.loads((ROOT / metadata['Training Log']).read_text('utf-8'))
    metadata['Training Resources'] = record['machine']
    options = {'randomness.seed': record['seed']}
    if record['precision'] != precision_of(cfg):
        options['optim_wrapper.type'] = 'AmpOptimWrapper'
        options['optim_wrapper.dtype'] = record['precision']
        cfg.merge_from_dict(options)
    metadata['Training Command'] = ' '.join(
        [
            f'python tools/train.py configs/evidence/{record["config"]}.py',
            '--cfg-options',
            *(f'{key}={value}' for key, value in options.items()),
        ]
    )
    step = (
        f'epoch_{metadata["Epochs"]}'
        if 'Epochs' in metadata
        else f'iter_{metadata["Iterations"]}'
    )
    metadata['Publishing Command'] = (
        'python tools/model_converters/publish_model.py '
        f'work_dirs/{record["config"]}/{step}.pth mmhatnet/weights/shipped '
        f'--name {model["Name"]} --half'
    )
    metadata['Trained At Commit'] = record['commit']
    metadata['SHA256'] = sha256_of(list_shipped()[model['Name']])
    last = record['curve'][-1]
    for result in model['Results']:
        result['Metrics'] = {
            name: round(factor * last[key], 1)
            for name, (key, factor, _) in METRICS.items()
            if key in last
        }


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
        metadata['Training Techniques'] = techniques(cfg)
        if 'Training Log' in metadata:
            continue
        gpus = re.search(r'_(\d+)xb', model['Name'])[1]
        metadata['Training Resources'] = f'{gpus} GPUs'
        found = reproduced(model['Name'])
        for entry in model['Results']:
            printed = entry['Metrics']
            for name in [name for name in printed if star(name)]:
                # A result that was withdrawn goes as well.
                printed.pop(name.rstrip('*'), None)
                if name.rstrip('*') in found:
                    printed[name.rstrip('*')] = found[name.rstrip('*')]
    return yaml.safe_dump(content, sort_keys=False, width=100)


def techniques(cfg: Config) -> list[str]:
    """Name what a recipe does, as mm's metafiles name it."""
    wrapper, model = cfg.optim_wrapper, cfg.model
    found = [wrapper.optimizer.type.rpartition('.')[2], 'Weight Decay']
    if 'EMAHook' in str(cfg.get('custom_hooks')):
        found.append('EMA')
    if wrapper.get('clip_grad'):
        found.append('Gradient Clipping')
    if wrapper.get('type') == 'AmpOptimWrapper':
        found.append('Mixed Precision Training')
    if wrapper.get('constructor', '').startswith('mmhatnet.LayerDecay'):
        found.append('Layer-wise Learning Rate Decay')
    if model.backbone.get('drop_path_rate'):
        found.append('Stochastic Depth')
    if model.backbone.get('with_cp'):
        found.append('Activation Checkpointing')
    found += [
        a.type for a in (model.get('train_cfg') or {}).get('augments', [])
    ]
    if 'LabelSmooth' in str(model.get('head', {}).get('loss')):
        found.append('Label Smoothing')
    used = [t['type'] for t in cfg.train_dataloader.dataset.pipeline]
    used.append(cfg.train_dataloader.sampler.type)
    names = dict(
        RandAugment='RandAugment',
        RandomErasing='Random Erasing',
        RepeatAugSampler='Repeated Augmentation',
        PhotoMetricDistortion='Photometric Distortion',
    )
    return found + [name for key, name in names.items() if key in used]


def readme(metafile: Path) -> str:
    """The page of a folder of configs."""
    folder = metafile.parent.name
    first, *_ = yaml.safe_load(metafile.read_text('utf-8'))['Models']
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

{table(metafile, '../../')}

The first recipe has a batch of {metadata['Batch Size']} images, and \
{', '.join(metadata['Training Techniques'])}.

```bash
{command}
python tools/analysis_tools/get_flops.py {first['Name']} --shape {shape}
```
"""


def table(metafile: Path, up: str) -> str:
    """Table of the models of a metafile; ``up`` leads to the root."""
    models = yaml.safe_load(metafile.read_text('utf-8'))['Models']
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
    rows = [
        {
            'row': name,
            **{
                key: f'{metric["printed"]}\\*; {metric["measured"]}'
                for key, metric in json.loads(path.read_text('utf-8'))[
                    'metrics'
                ].items()
            },
        }
        for name in list_experiments()
        if name.startswith('table6')
        and (path := RESULTS / f'{name}.json').exists()
    ]
    return (
        markdown_table(rows) if rows else 'None of them has been reproduced.'
    )


def star(name: str) -> str:
    return '\\*' if name.endswith('*') else ''


def title(name: str) -> str:
    return name.rstrip('*') if star(name) else f'{name}, measured'


def with_tables(page: Path) -> str:
    """Text of a page with current tables.

    They are between ``<!-- models: FOLDER -->`` and ``<!-- end -->``.
    """
    up = '../' * (len(page.relative_to(ROOT).parts) - 1)
    text = re.sub(
        r'(<!-- rows of Table 6 -->\n).*?(<!-- end -->)',
        lambda match: f'{match[1]}{settings()}\n{match[2]}',
        page.read_text('utf-8'),
        flags=re.DOTALL,
    )
    return re.sub(
        r'(<!-- models: (\w+) -->\n).*?(<!-- end -->)',
        lambda match: (
            match[1]
            + table(ROOT / 'configs' / match[2] / 'metafile.yml', up)
            + f'\n{match[3]}'
        ),
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure the parameters and operations in the metafiles, '
        f'and update the model tables of {" and ".join(PAGES)} and of the '
        'README of each folder of configs.'
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='change nothing; fail if something would change',
    )
    args = parser.parse_args()
    changed = []

    def replace(path: Path, text: str) -> None:
        if not path.exists() or text != path.read_text('utf-8'):
            changed.append(str(path.relative_to(ROOT)))
            if not args.check:
                path.write_text(text, 'utf-8')

    for metafile in tqdm(metafiles(), unit='metafile'):
        replace(metafile, update(metafile.read_text('utf-8')))
        replace(metafile.with_name('README.md'), readme(metafile))
    for name in PAGES:
        replace(ROOT / name, with_tables(ROOT / name))
    if args.check and changed:
        sys.exit(
            f'model_zoo.py: error: not current: {", ".join(changed)}; run '
            'tools/pages/model_zoo.py'
        )
    print('changed:', *changed or ['nothing'])


if __name__ == '__main__':
    with one_line_errors('reproduction'):
        main()
