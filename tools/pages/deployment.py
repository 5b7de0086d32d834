#!/usr/bin/env python
"""Makes docs/deployment_costs.md: size, accuracy and speed of exported files.

The machine should be idle. The rows of a model are kept in a table in
docs/deployment_costs as soon as they are measured, and not measured again.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch._inductor import aoti_compile_and_package, aoti_load_package
from tqdm import tqdm

from mmhatnet.analysis.report import markdown_table, read_csv, write_csv
from mmhatnet.analysis.sweep import main_metric
from mmhatnet.analysis.timing import time_in_turns
from mmhatnet.apis.inference import get_inferencer, predict
from mmhatnet.apis.zoo import find_weights, get_model, load_model_config
from mmhatnet.deploy.evaluation import evaluate_exported
from mmhatnet.deploy.export import describe, export_program
from mmhatnet.deploy.graphs import make_graph
from mmhatnet.deploy.predict_files import find_images
from mmhatnet.deploy.verification import (
    TOLERANCES,
    as_arrays,
    check_errors,
    verify,
)
from mmhatnet.deploy.writer import export_files, save
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import describe_machine
from mmhatnet.runtime import OnnxModel
from mmhatnet.utils.atomic import replacing
from mmhatnet.weights.releases import list_shipped

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'deployment_costs.md'
TABLES = ROOT / 'docs' / 'deployment_costs'
PHOTO = 'data/demo/ade/ADEChallengeData2016/images/validation/*1.jpg'
# Model -> images of the calibration; they are not those of the test.
CALIBRATION = {
    'cifar10-classifier': 'data/cifar10/train/*/*00.png',
    'shape-segmentor': (
        'data/demo/ade/ADEChallengeData2016/images/training/*1.jpg'
    ),
    'tree-detector': 'data/tree_crowns/train/*00.png',
}
# Model -> heights and widths of the images.
SPEED = {
    'hatnet-tiny_8xb128_in1k': (224, 512),
    'hatnet-small_8xb128_in1k': (224, 512),
    'shape-segmentor': (256,),
}
TEXT = """# What exported files cost

Made by `python tools/pages/deployment.py` from the tables in
`docs/deployment_costs`; remove one to measure it again.

## Precision

Files of the models in the package, evaluated by
`tools/deployment/evaluate.py` on their test data, which the calibration of
int8 does not see. The checkpoints are in float16. {precision_machine}

{precision}

## Speed

Milliseconds for one image, the median of several rounds (15 by default) in
which all take turns. All four compute the same graph, from pixels to scores or
labels, in float32, with random weights or those in the package.
*torch.compile* compiles for the size of the row, AOTInductor and onnxruntime
run one file at every size. {speed_machine}

{speed}

## From a file to a result

`tools/infer.py` on a photograph, with `shape-segmentor` and with its ONNX
file: *start* is the whole command, *next image* is one more image in a running
process, with its picture. {start_machine}

{start}
"""


# How the cells of a column are written.
FORMATS = {
    'model': '`{}`',
    'MB': '{:.1f}',
    'value': '{:.4g}',
    'start (s)': '{:.2f}',
    **dict.fromkeys(
        (
            *('eager', 'torch.compile', 'AOTInductor', 'onnxruntime'),
            'next image (ms)',
        ),
        '{:.1f}',
    ),
}


def measure_rows(
    table: str, names: Iterable[str], measure: Callable[[str], Iterable[dict]]
) -> list[dict]:
    """Measure the models that a table lacks.

    Args:
        table (str): The name of the table in TABLES.
        names (Iterable[str]): The models.
        measure (Callable): Gives the rows of a model.

    Returns:
        list[dict]: All rows of the table.
    """
    path = TABLES / f'{table}.csv'
    rows = read_csv(path)
    machine = f'{describe_machine()}, onnxruntime {onnxruntime.__version__}'
    for name in tqdm(list(names), desc=table):
        if name not in {row['model'] for row in rows}:
            rows += [
                dict(model=name, **row, machine=machine)
                for row in measure(name)
            ]
            write_csv(path, rows)
    return rows


def page_of(**tables: list[dict]) -> str:
    """Write the page."""
    parts = {}
    for table, rows in tables.items():
        cells = [
            {key: FORMATS.get(key, '{}').format(row[key]) for key in row}
            for row in rows
        ]
        machines = sorted({cell.pop('machine') for cell in cells})
        parts[table] = markdown_table(cells)
        parts[f'{table}_machine'] = f'Measured on {" and ".join(machines)}.'
    return TEXT.format(**parts)


def precision_of(name: str, folder: Path) -> Iterator[dict]:
    cfg = load_model_config(name)
    checkpoint = find_weights(name)
    graph = make_graph(get_model(cfg, checkpoint))
    calibration = find_images([CALIBRATION[name]])
    cfg.work_dir = str(folder)
    for precision in TOLERANCES:
        (path,) = export_files(
            graph,
            cfg,
            checkpoint,
            folder / f'{name}-{precision}.onnx',
            precision=precision,
            calibration=calibration,
        )
        found = evaluate_exported(cfg, path)
        metric = main_metric(cfg, [found])
        yield {
            'precision': precision,
            'MB': path.stat().st_size / 1e6,
            'metric': metric,
            'value': found[metric],
        }


def forms_of(name: str, folder: Path) -> dict[str, Callable]:
    """Functions of images, by how they run."""
    cfg = load_model_config(name)
    checkpoint = find_weights(name) if name in list_shipped() else None
    graph = make_graph(get_model(cfg, checkpoint))
    program = export_program(graph)
    file = folder / f'{name}.onnx'
    save(program, describe(graph, cfg), file)
    package = aoti_compile_and_package(
        program, package_path=str(folder / f'{name}.pt2')
    )
    exported = OnnxModel(file, torch.get_num_threads())
    compiled = aoti_load_package(package)
    for run in exported.run, as_arrays(compiled):
        check_errors(verify(graph, run))
    return {
        'eager': graph,
        'torch.compile': torch.compile(graph, dynamic=False),
        'AOTInductor': compiled,
        'onnxruntime': lambda images: exported.run(images.numpy()),
    }


def speed_of(name: str, folder: Path, rounds: int) -> Iterator[dict]:
    forms = forms_of(name, folder)
    for side in SPEED[name]:
        images = torch.randint(256, (1, 3, side, side)).float()
        steps = {form: partial(run, images) for form, run in forms.items()}
        with torch.no_grad():
            seconds = time_in_turns(steps, rounds)
        yield {
            'size': f'{side}x{side}',
            **{form: 1000 * median(times) for form, times in seconds.items()},
        }


def start_of(name: str, folder: Path, rounds: int) -> Iterator[dict]:
    photo = find_images([PHOTO])[0]
    cfg, checkpoint = load_model_config(name), find_weights(name)
    graph = make_graph(get_model(cfg, checkpoint))
    (file,) = export_files(graph, cfg, checkpoint, folder / 'start.onnx')
    inferencer = get_inferencer(name, device='cpu')
    steps = {
        'checkpoint': partial(predict, inferencer, photo),
        'onnxruntime': partial(
            OnnxModel(file, torch.get_num_threads()).predict, photo
        ),
    }
    seconds = time_in_turns(steps, rounds)
    for form, model in (('checkpoint', name), ('onnxruntime', file)):
        command = [sys.executable, ROOT / 'tools' / 'infer.py', model, photo]
        command += ['--out-dir', folder / 'results', '--overwrite']
        starts = []
        for _ in tqdm(range(3), desc=f'start of {form}'):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            starts.append(time.perf_counter() - start)
        yield {
            'form': form,
            'start (s)': median(starts),
            'next image (ms)': 1000 * median(seconds[form]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure exported files: precision, speed and start, and '
        'write docs/deployment_costs.md.'
    )
    parser.add_argument('--rounds', type=int, default=15)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        timed = dict(folder=folder, rounds=args.rounds)
        page = page_of(
            precision=measure_rows(
                'precision',
                list_shipped(),
                partial(precision_of, folder=folder),
            ),
            speed=measure_rows('speed', SPEED, partial(speed_of, **timed)),
            start=measure_rows(
                'start', ['shape-segmentor'], partial(start_of, **timed)
            ),
        )
    with replacing(PAGE) as part:
        Path(part).write_text(page, 'utf-8')


if __name__ == '__main__':
    with one_line_errors():
        main()
