#!/usr/bin/env python
"""Fills docs/deployment_costs.md: size, accuracy and speed of exported files.

The machine should be idle. The rows of a model are kept in a table in
docs/deployment_costs as soon as they are measured.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from common import DOCS, complete_table, make_page
from torch._inductor import aoti_compile_and_package, aoti_load_package

from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.sweep import main_metric
from mmhatnet.analysis.timing import time_in_turns
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
from mmhatnet.engine.provenance import describe_machine
from mmhatnet.runtime import OnnxModel
from mmhatnet.weights.releases import list_shipped

TABLES = DOCS / 'deployment_costs'
ROUNDS = 15
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
FORMATS = {'model': '`{}`', 'value': '{:.4g}'}


def show_table(rows: list[dict]) -> str:
    """Make a table of the page, with its machines above it."""
    if not rows:
        return 'Not measured yet.'
    machines = sorted({row.pop('machine') for row in rows})
    cells = [
        {
            title: FORMATS.get(
                title, '{:.1f}' if isinstance(value, float) else '{}'
            ).format(value)
            for title, value in row.items()
        }
        for row in rows
    ]
    return f'Measured on {" and ".join(machines)}.\n\n{markdown_table(cells)}'


def precisions_of(name: str, folder: Path) -> Iterator[dict]:
    """Size and accuracy of the files of a model, by precision."""
    cfg, checkpoint = load_model_config(name), find_weights(name)
    graph = make_graph(get_model(cfg, checkpoint))
    cfg.work_dir = str(folder)
    for precision in TOLERANCES:
        path = folder / f'{name}-{precision}.onnx'
        export_files(
            graph,
            cfg,
            checkpoint,
            path,
            precision=precision,
            calibration=find_images([CALIBRATION[name]]),
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


def speeds_of(name: str, folder: Path) -> Iterator[dict]:
    """Milliseconds of the forms of a model, by size."""
    forms = forms_of(name, folder)
    for side in SPEED[name]:
        images = torch.randint(256, (1, 3, side, side)).float()
        steps = {form: partial(run, images) for form, run in forms.items()}
        with torch.no_grad():
            seconds = time_in_turns(steps, ROUNDS)
        medians = {form: 1e3 * median(x) for form, x in seconds.items()}
        yield {'size': f'{side}x{side}', **medians}


# Table -> its models, and what gives the rows of a model.
MEASURES = {
    'precision': (list(list_shipped()), precisions_of),
    'speed': (list(SPEED), speeds_of),
}


def make_regions(measuring: bool) -> dict[str, str]:
    machine = f'{describe_machine()}, onnxruntime {onnxruntime.__version__}'
    regions = {}
    with TemporaryDirectory() as folder:
        for table, (names, measure) in MEASURES.items():
            rows = complete_table(
                TABLES / f'{table}.csv',
                'model',
                names if measuring else (),
                lambda name, measure=measure: [
                    dict(model=name, **row, machine=machine)
                    for row in measure(name, Path(folder))
                ],
            )
            regions[table] = show_table(rows)
    return regions


if __name__ == '__main__':
    make_page(TABLES.with_suffix('.md'), __doc__, make_regions)
