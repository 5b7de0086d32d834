"""Constants and functions that several test files share."""

import argparse
import csv
import importlib
import io
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import ManagerMixin

from mmhatnet.models import HATNet

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / 'tools'
DATA = ROOT / 'tests' / 'data'
TORCH = tuple(map(int, torch.__version__.split('.')[:2]))
ARCHS = ('tiny', 'small', 'medium', 'large')
# The paper's G1 and G2 for 224x224 classification.
CLS_GRIDS = dict(grid_sizes=(8, 7, 7), ds_ratios=(8, 4, 2))

# For tests that do not depend on the size of the network.
SMALL_ARCH = dict(
    embed_dims=(8, 16, 16, 24),
    depths=(2, 2, 1, 1),
    kernel_sizes=(3, 5, 3, 3),
    expansions=(2, 3, 2, 2),
    head_dim=8,
)

# Length of the trainings that are compared with each other.
ITERS = 6
# The configs, relative to configs/.
CONFIGS = sorted(
    str(path.relative_to(ROOT / 'configs'))
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)


def slow_if_larger(name, names):
    """Mark a size as slow if the smallest one of the same kind is there."""
    smallest = re.sub('small|medium|large', 'tiny', name)
    larger = smallest != name and smallest in names
    return [pytest.mark.slow] * larger


# Task -> name of the demo model.
DEMOS = {
    'Image Classification': 'hatnet-tiny_2xb16-6e_demo',
    'Semantic Segmentation': 'fpn_hatnet-tiny_2xb4-400_demo',
    'Object Detection': 'retinanet_hatnet-tiny_fpn_2xb4-6e_demo',
    'Instance Segmentation': 'mask-rcnn_hatnet-tiny_fpn_2xb4-6e_demo',
}


EVIDENCE = ROOT / 'configs' / 'evidence'
# Kind of an exported file -> a small model.
EXPORTABLE = {
    'classification': (
        f'{ROOT}/configs/demo/{DEMOS["Image Classification"]}.py'
    ),
    'segmentation': f'{EVIDENCE}/fpn_hatnet-micro-scratch_1xb8-1200_demo.py',
    'detection': (
        f'{EVIDENCE}/retinanet_hatnet-micro-scratch_fpn_1xb4-36e_trees.py'
    ),
    'instances': (
        f'{EVIDENCE}/mask-rcnn_hatnet-micro-scratch_fpn_1xb8-6e_demo.py'
    ),
}
DETECTORS = 'detection', 'instances'
needs_export = pytest.mark.skipif(
    TORCH < (2, 8), reason='torch.export of any size needs torch 2.8'
)

# Whether Triton computes kernels on a CPU, as ``run_interpreted`` asks for.
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
needs_interpreter = pytest.mark.skipif(
    not INTERPRETED, reason='run by test_interpreted in a process of its own'
)
needs_triton = pytest.mark.skipif(
    TORCH < (2, 6) or find_spec('triton') is None,
    reason='the kernels need Triton and torch 2.6',
)


# Name of a layout of the authors' checkpoints -> function that makes it.
LAYOUTS = {
    'bare': lambda weights: weights,
    'model': lambda weights: dict(
        model=weights, epoch=300, args=argparse.Namespace(lr=1e-3)
    ),
    'state_dict': lambda weights: dict(state_dict=weights),
    'module': lambda weights: {f'module.{k}': v for k, v in weights.items()},
    'model, module': lambda weights: dict(model=LAYOUTS['module'](weights)),
}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


_parse = cache(Config.fromfile)


def open_config(name):
    """A config in configs/, whose default scope becomes the current one."""
    cfg = deepcopy(_parse(ROOT / 'configs' / name))
    init_default_scope(cfg.default_scope)
    return cfg


def start_tool(
    *command,
    cwd=ROOT,
    stderr=subprocess.STDOUT,
    start_new_session=False,
    **env,
):
    """Start a command; Python runs a first word ``*.py``, ``-c`` or ``-m``.

    Without GPUs, and with ``tests`` on the Python path.
    """
    command = [str(part) for part in command]
    if command[0] in ('-c', '-m') or command[0].endswith('.py'):
        command.insert(0, sys.executable)
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=start_new_session,
        text=True,
        env={
            **os.environ,
            'PYTHON': sys.executable,
            'PYTHONPATH': str(ROOT / 'tests'),
            'CUDA_VISIBLE_DEVICES': '',
            'PYTHONFAULTHANDLER': '1',
            **env,
        },
    )


def descendants(pid):
    """Get the processes that a process has started, on Linux."""
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [
        each
        for child in map(int, children)
        for each in (*descendants(child), child)
    ]


def run_tool(*command, code=0, timeout=300, **kwargs):
    """Run a command as :func:`start_tool` does and return what it printed.

    The exit code must be ``code``; None accepts any.
    """
    process = start_tool(*command, **kwargs)
    try:
        output = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        # Python prints what each process was doing.
        for pid in (*descendants(process.pid), process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        pytest.fail(f'no end after {timeout} s:\n{process.communicate()[0]}')
    assert code is None or process.returncode == code, output
    return output


def free_port():
    """A port of this machine that no process uses."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def write_program(path, lines):
    """Write a program of the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\n{lines}\n')
    path.chmod(0o755)
    return path


def run_interpreted(file, select):
    """Run the tests of a file once where Triton computes on a CPU.

    Triton decides this when it is imported. ``select`` is pytest's ``-m``.
    """
    if INTERPRETED:
        pytest.skip('runs already')
    options = '-q', '-m', select, '-p', 'no:cacheprovider'
    command = '-m', 'pytest', file, *options
    output = run_tool(*command, timeout=900, TRITON_INTERPRET='1')
    assert ' passed' in output, output


def call_tool(script, *arguments, code=0, cwd='.', **env):
    """Run a tool in this process, which is faster, and return its output.

    The exit code must be ``code``. An error message is part of the output.
    """
    forget()
    argv = [str(part) for part in (script, *arguments)]
    output, found = io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        mock.patch.dict(os.environ, env),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, 'argv', argv)
        patch.syspath_prepend(Path(argv[0]).parent)  # as Python does
        patch.setattr('mmengine.device.utils.DEVICE', 'cpu')
        try:
            runpy.run_path(argv[0], run_name='__main__')
        except SystemExit as error:
            found = error.code or 0
            if isinstance(found, str):
                print(found)
                found = 1
    assert found == code, output.getvalue()
    return output.getvalue()


def write_video(path, images, rate, code='mp4v'):
    """Write images, BGR, of one size; skip the test without the codec."""
    size = images[0].shape[1::-1]
    fourcc = cv2.VideoWriter.fourcc(*code)
    writer = cv2.VideoWriter(str(path), fourcc, rate, size)
    if not writer.isOpened():
        pytest.skip(f'OpenCV cannot write {code}')
    for image in images:
        writer.write(image)
    writer.release()
    return path


def import_page(name):
    """Import the module of a maker of pages, which imports its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS / 'pages')
        return importlib.import_module(name)


def forget(cls=ManagerMixin):
    """Forget mmengine's loggers, visualizers and the like of earlier runs."""
    for subclass in cls.__subclasses__():
        subclass._instance_dict.clear()
        forget(subclass)


def recorded(folder, rank=0):
    """The lines that RecordHook wrote in a folder."""
    lines = (folder / f'rank{rank}.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def official_shapes(arch):
    """Keys and shapes of an official checkpoint."""
    with open(DATA / 'state_dict' / f'{arch}.csv') as file:
        return {
            row['key']: tuple(map(int, row['shape'].split('x')))
            for row in csv.DictReader(file)
        }


def golden_weight(key, shape):
    """The weight that the golden outputs were computed with."""
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    noise = rng.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        noise /= np.sqrt(np.prod(shape[1:]))
    elif 'norm' in key or key.startswith('patch_embed.1.'):
        noise = 0.1 * noise + (1 if key.endswith('.weight') else 0)
    else:
        noise = 0.1 * noise
    return torch.from_numpy(noise.astype(np.float32))


def golden_image(height=224, width=224):
    """The image that the golden outputs were computed with."""
    rng = np.random.RandomState(210603180)
    image = rng.standard_normal((2, 3, height, width)).astype(np.float32)
    return torch.from_numpy(image)


def pretrained(checkpoint, prefix=None, stem='adapt', **kwargs):
    """A backbone with the weights of a checkpoint."""
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    init_cfg.update(prefix=prefix, stem=stem)
    model = HATNet('tiny', **CLS_GRIDS, init_cfg=init_cfg, **kwargs).eval()
    model.init_weights()
    return model


def error_of_last_stage(model, golden):
    """Largest error of the features in golden standard deviations."""
    expected = golden('tiny')['stage3_sample']
    return _error(lambda x: model(x)[-1][:, ::8], expected)


def error_of_logits(classifier, golden):
    """Largest error of the logits in golden standard deviations."""
    return _error(classifier, golden('tiny')['logits'])


@torch.no_grad()
def _error(model, expected):
    found = model(golden_image()).numpy()
    return np.abs(found - expected).max() / expected.std()


def random_images(*size):
    """Two images; neither side is divided by G1 or G2 by default."""
    return torch.randn(2, 3, *(size or (75, 101)))


def assert_features_close(found, expected, **tolerances):
    """Compare the features of all stages."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerances)


def gradients(model, x):
    """Gradients of a loss over all features, by the parameters' names."""
    model.zero_grad()
    sum(feature.square().mean() for feature in model(x)).backward()
    return {
        name: parameter.grad for name, parameter in model.named_parameters()
    }


def assert_gradients_close(found, expected):
    """Compare gradients by the parameters' names."""
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def scale_predictions(model):
    """Spread random scores and boxes as a trained detector does.

    Boxes that are all alike, or scores that are all 0 or 1, leave what
    non-maximum suppression keeps to rounding.
    """
    from mmhatnet.deploy.graphs import make_graph

    graph, images = make_graph(model), 255 * torch.rand(1, 3, 224, 224)
    spreads = []
    for name, layer in graph.model.named_modules():
        if name.endswith(('_cls', '_reg')) and hasattr(layer, 'weight'):
            wanted = 2 if name.endswith('cls') else 0.3
            hook = layer.register_forward_hook(
                lambda *args: spreads.append(args[-1].std())
            )
            graph(images)
            layer.weight *= wanted / spreads[0]
            hook.remove()
            spreads.clear()
    model.load_state_dict(graph.model.state_dict())
