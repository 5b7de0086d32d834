#!/usr/bin/env python
"""Makes docs/deployment_costs.md: size, accuracy and speed of exported files.

The machine should be idle. The rows of a model are kept in a table in
docs/deployment_costs as soon as they are measured.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from common import DOCS, ROOT, fill_page
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
from mmhatnet.weights.releases import list_shipped

TABLES = DOCS / 'deployment_costs'
ROUNDS = 15
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
# How the cells of a column are written; other numbers have one decimal.
FORMATS = {'model': '`{}`', 'value': '{:.4g}', 'start (s)': '{:.2f}'}


def show_cell(title: str, value: object) -> str:
    default = '{:.1f}' if isinstance(value, float) else '{}'
    return FORMATS.get(title, default).format(value)


def show_table(table: str) -> str:
    """Make a table of the page, with its machines above it."""
    rows = read_csv(TABLES / f'{table}.csv')
    machines = sorted({row.pop('machine') for row in rows})
    cells = [{k: show_cell(k, v) for k, v in row.items()} for row in rows]
    return f'Measured on {" and ".join(machines)}.\n\n{markdown_table(cells)}'


def measure_table(table: str, folder: Path) -> None:
    """Measure the models that a table lacks."""
    path = TABLES / f'{table}.csv'
    names, measure = MEASURES[table]
    machine = f'{describe_machine()}, onnxruntime {onnxruntime.__version__}'
    rows = read_csv(path)
    for name in tqdm(names, desc=table):
        if name not in {row['model'] for row in rows}:
            rows += [
                dict(model=name, **row, machine=machine)
                for row in measure(name, folder)
            ]
            write_csv(path, rows)


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


def speed_of(name: str, folder: Path) -> Iterator[dict]:
    forms = forms_of(name, folder)
    for side in SPEED[name]:
        images = torch.randint(256, (1, 3, side, side)).float()
        steps = {form: partial(run, images) for form, run in forms.items()}
        with torch.no_grad():
            seconds = time_in_turns(steps, ROUNDS)
        yield {
            'size': f'{side}x{side}',
            **{form: 1000 * median(times) for form, times in seconds.items()},
        }


def start_of(name: str, folder: Path) -> Iterator[dict]:
    photo = find_images([PHOTO])[0]
    cfg, checkpoint = load_model_config(name), find_weights(name)
    graph = make_graph(get_model(cfg, checkpoint))
    (file,) = export_files(graph, cfg, checkpoint, folder / 'start.onnx')
    exported = OnnxModel(file, torch.get_num_threads())
    inferencer = get_inferencer(name, device='cpu')
    steps = {
        'checkpoint': partial(predict, inferencer, photo),
        'onnxruntime': partial(exported.predict, photo),
    }
    seconds = time_in_turns(steps, ROUNDS)
    for form, model in zip(steps, (name, file), strict=True):
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


# Table -> its models, and what gives the rows of a model.
MEASURES = {
    'precision': (list(list_shipped()), precision_of),
    'speed': (list(SPEED), speed_of),
    'start': (['shape-segmentor'], start_of),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/deployment_costs.md: precision, speed and '
        'start of exported files.'
    )
    parser.add_argument(
        '--measure',
        action='store_true',
        help='first measure the models that the tables lack',
    )
    if parser.parse_args().measure:
        with TemporaryDirectory() as folder:
            for table in MEASURES:
                measure_table(table, Path(folder))
    fill_page(
        DOCS / 'deployment_costs.md',
        {table: partial(show_table, table) for table in MEASURES},
    )


if __name__ == '__main__':
    with one_line_errors():
        main()
