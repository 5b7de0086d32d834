"""What a GPU does differently, each as a function of the device.

A check returns what it found, raises AssertionError with what is wrong, or
raises SkipError with what is missing.
"""

import copy
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import torch
import torch.distributed as dist
from mmcv.cnn.bricks import DropPath
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from ..analysis.timing import peak_memory, time_in_turns
from ..apis.zoo import load_model_config
from ..datasets.random_batch import make_batch
from ..engine.runner import lacks_bfloat16
from ..models import HATNet
from ..models.compiling import capture_cuda_graph
from ..operators import describe_operators
from ..utils.stack import describe_versions

ARCHS = ('tiny', 'small', 'medium', 'large')
# (H, W): that of ImageNet, one that no window divides, and one whose maps of
# every stage are odd.
SHAPES = ((224, 224), (250, 333), (97, 161))
# Largest ||out - reference|| / ||reference|| of a stage. Rounding errors of
# the layers add up like a random walk, so over the about 100 roundings of a
# path the error is some ten times that of one number: 2^-24 in float32, 2^-11
# in TF32 and float16, 2^-8 in bfloat16.
TOLERANCES = dict(float32=1e-5, tf32=5e-3, float16=5e-3, bfloat16=4e-2)
# One model of each task.
TASKS = {
    'classification': 'hatnet-tiny_2xb16-6e_demo',
    'Semantic FPN': 'fpn_hatnet-tiny_2xb4-400_demo',
    'RetinaNet': 'retinanet_hatnet-tiny_fpn_2xb4-6e_demo',
    'Mask R-CNN': 'mask-rcnn_hatnet-tiny_fpn_2xb4-6e_demo',
}


class SkipError(Exception):
    """A check cannot run; the message says what is missing."""


def relative_error(out: Tensor, reference: Tensor) -> float:
    """Compute ``||out - reference|| / ||reference||`` in float64.

    Args:
        out (Tensor): Any shape, dtype and device.
        reference (Tensor): Of the same shape.

    Returns:
        float: The error; NaN if a value is NaN.
    """
    out, reference = out.detach().cpu().double(), reference.detach().cpu()
    difference = (out - reference.double()).norm()
    return (difference / reference.double().norm()).item()


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision of TOLERANCES.

    Args:
        name (str): The precision.
        device (torch.device): The device.

    Yields:
        None: Inside, convolutions and matrix products have the precision.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = name == 'tf32'
    half = name in ('float16', 'bfloat16')
    dtype = getattr(torch, name) if half else None
    try:
        with torch.autocast(device.type, dtype, enabled=half):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def _build(arch: str, device: str = 'cpu', **kwargs) -> HATNet:
    """A HATNet without dropping of paths, always with the same weights."""
    torch.manual_seed(0)
    model = HATNet(arch, **kwargs).to(device)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.eval().train = lambda mode=True: None
    return model


def check_versions(device: torch.device) -> str:
    """Versions, driver and GPUs."""
    found = [f'{k} {v}' for k, v in describe_versions().items()]
    if device.type == 'cuda':
        found += [
            f'CUDA {torch.version.cuda}',
            f'cuDNN {torch.backends.cudnn.version()}',
            f'{torch.cuda.device_count()} GPUs',
            f'driver {_driver()}',
        ]
    return ', '.join(found)


def _driver() -> str:
    query = '--query-gpu=driver_version', '--format=csv,noheader'
    try:
        lines = subprocess.check_output(('nvidia-smi', *query), text=True)
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return ' and '.join(sorted(set(lines.split())))


def check_operators(device: torch.device) -> str:
    """Operators that mmcv compiles, or those in their place."""
    try:
        from mmcv.ops import nms, roi_align
    except ImportError as error:
        raise SkipError(f'mmcv has no operators ({error})') from None
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
    kept = nms(boxes.to(device), torch.tensor([0.9, 0.8, 0.7]).to(device), 0.5)
    assert kept[1].tolist() == [0, 2], f'nms kept {kept[1].tolist()}'
    maps = torch.arange(16.0, device=device).view(1, 1, 4, 4)
    region = torch.tensor([[0.0, 0, 0, 4, 4]], device=device)
    out = roi_align(maps, region, 1, 1.0, 4, 'avg', True)
    assert abs(out.item() - 7.5) < 1e-5, f'roi_align made {out.item()}'
    return f'nms and roi_align of {describe_operators()} are right'


def check_parity(
    device: torch.device,
    archs: Sequence[str] = ARCHS,
    shapes: Sequence[tuple[int, int]] = SHAPES,
) -> str:
    """Features against the equations in float64 on the CPU."""
    names = list(TOLERANCES)
    if device.type == 'cpu':  # the others are for GPUs
        names = ['float32', 'bfloat16']
    worst, wrong = dict.fromkeys(names, 0.0), []
    for arch, shape in product(archs, shapes):
        model = _build(arch).eval()
        images = torch.randn(2, 3, *shape)
        plain = _build(arch, fast=False).eval().double()
        with torch.no_grad():
            references = plain(images.double())
            model, images = model.to(device), images.to(device)
            for name in names:
                with precision(name, device):
                    outs = model(images)
                error = max(map(relative_error, outs, references))
                worst[name] = max(worst[name], error)
                if not error <= TOLERANCES[name]:
                    wrong.append(f'{arch} {shape} {name}: {error:.1e}')
    assert not wrong, '; '.join(wrong)
    return 'largest errors: ' + ', '.join(
        f'{name} {error:.1e} (allowed {TOLERANCES[name]:.0e})'
        for name, error in worst.items()
    )


def check_forms(device: torch.device, shape: tuple = (250, 333)) -> str:
    """Features and gradients of fast=True against fast=False."""
    images = torch.randn(2, 3, *shape, device=device)
    with precision('float32', device):
        models = [
            _build('tiny', device, fast=fast).train() for fast in (True, False)
        ]
        found = []
        for model in models:
            x = images.clone().requires_grad_()
            outs = model(x)
            sum((out * out.detach().sin()).mean() for out in outs).backward()
            gradients = [p.grad for p in model.parameters()]
            found.append([*outs, x.grad, *gradients])
    errors = [
        relative_error(a, b)
        for a, b in zip(*found, strict=True)
        if b.norm() > 0
    ]
    assert max(errors) < 1e-3, f'relative error {max(errors):.1e}'
    return f'largest relative error of {len(errors)} tensors {max(errors):.1e}'


def _training_steps(
    name: str, device: torch.device, amp: str = '', steps: int = 2
) -> list[float]:
    """Losses of some steps of a model's recipe on random images."""
    cfg = load_model_config(name)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model, 'data_preprocessor': preprocessor})
    model.to(device).train()
    options = ConfigDict(cfg.optim_wrapper)
    if amp:
        options.update(type='AmpOptimWrapper', dtype=amp)
    wrapper = build_optim_wrapper(model, options)
    batch, losses = make_batch(cfg.default_scope, (128, 128)), []
    for _ in range(steps):
        found = model.train_step(copy.deepcopy(batch), wrapper)
        losses.append(found['loss'].item())
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), f'{name} is not finite'
    return losses


def check_training(device: torch.device) -> str:
    """A training step of each task, in float32 and mixed precision."""
    found = []
    amps = ('', 'float16', 'bfloat16') if device.type == 'cuda' else ('',)
    for (task, name), amp in product(TASKS.items(), amps):
        if amp == 'bfloat16' and lacks_bfloat16(load_model_config(name)):
            continue
        try:
            losses = _training_steps(name, device, amp)
        except ImportError as error:
            if amp == '':
                found.append(f'{task} skipped ({error})')
            continue
        assert torch.tensor(losses).isfinite().all(), f'{task}: {losses}'
        found.append(f'{task} {amp or "float32"} {losses[-1]:.3f}')
    if all('skipped' in line for line in found):
        raise SkipError(', '.join(found))
    return 'losses after one step: ' + ', '.join(found)


def _run_process(rank: int, count: int, port: int, kind: str) -> None:
    """One of the processes of :func:`check_distributed`."""
    on_gpu = kind == 'cuda'
    device = torch.device(kind, rank) if on_gpu else torch.device(kind)
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        'nccl' if on_gpu else 'gloo',
        init_method=f'tcp://127.0.0.1:{port}',
        rank=rank,
        world_size=count,
    )
    try:
        # torch has no SyncBN on a CPU.
        norm = dict(norm_cfg=dict(type='SyncBN')) if on_gpu else {}
        model = _build('tiny', str(device), **norm).train()
        wrapped = DistributedDataParallel(
            model, device_ids=[device] if on_gpu else None
        )
        torch.manual_seed(rank)
        for _ in range(2):  # an unused parameter raises in the second step
            outs = wrapped(torch.randn(2, 3, 128, 96, device=device))
            sum(out.mean() for out in outs).backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        assert not missing, f'no gradient of {missing[:3]}'
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        mean = found.clone()
        dist.all_reduce(mean)
        error = relative_error(found, mean / count)
        assert error < 1e-5, f'gradients of process {rank} differ: {error}'
        if on_gpu:
            statistics = [b for b in model.buffers() if b.is_floating_point()]
            found = torch.cat([each.flatten() for each in statistics])
            mean = found.clone()
            dist.all_reduce(mean)
            error = relative_error(found, mean / count)
            assert error < 1e-5, f'SyncBN of process {rank} differs: {error}'
    finally:
        dist.destroy_process_group()


def check_distributed(device: torch.device) -> str:
    """DDP with SyncBN on all GPUs; all parameters have equal gradients."""
    on_gpu = device.type == 'cuda'
    count = torch.cuda.device_count() if on_gpu else 2
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    if count == 1:  # a GPU may allow one process alone
        _run_process(0, count, port, device.type)
    else:
        multiprocessing.spawn(_run_process, (count, port, device.type), count)
    if not on_gpu:
        return f'{count} processes with gloo, without SyncBN'
    if count == 1:
        return 'nccl, 1 GPU: SyncBN and DDP had nothing to exchange'
    return f'nccl, SyncBN, {count} GPUs'


def check_resuming(device: torch.device) -> str:
    """A state saved on the CPU goes on on the device, and back."""
    images = torch.randn(2, 3, 96, 64)

    def train(state: dict | None, device: torch.device) -> dict:
        model = _build('tiny', device).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        if state:
            model.load_state_dict(state['model'])
            optimizer.load_state_dict(state['optimizer'])
        with precision('float32', device):
            model(images.to(device))[-1].square().mean().backward()
        optimizer.step()
        return dict(model=model.state_dict(), optimizer=optimizer.state_dict())

    cpu = torch.device('cpu')
    expected = train(train(train(None, cpu), cpu), cpu)['model']
    found = train(train(train(None, cpu), device), cpu)['model']
    start = _build('tiny').state_dict()
    moved, differs = (
        torch.cat([(a[k].cpu() - b[k]).flatten() for k in b]).norm().item()
        for a, b in ((expected, start), (found, expected))
    )
    # Not 0, as AdamW's first steps move a weight by the rate whatever its
    # gradient, and one of about zero may move it the other way.
    share = differs / moved
    assert share < 0.05, f'the weights moved differently by {share:.1%}'
    return f'the weights moved differently by {share:.2%} in three steps'


def check_compile(device: torch.device) -> str:
    """torch.compile without a graph break; its time and speed."""
    shape = (8, 3, 224, 224) if device.type == 'cuda' else (1, 3, 64, 64)
    model = _build('tiny', device).eval()
    images = torch.randn(shape, device=device)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        start = time.perf_counter()
        outs = compiled(images)
        seconds = time.perf_counter() - start
        error = max(map(relative_error, outs, model(images)))
        assert error < 1e-2, f'relative error {error:.1e}'
        times = time_in_turns(
            dict(
                eager=lambda: model(images), compiled=lambda: compiled(images)
            ),
            20,
            device,
        )
    eager, fast = (sorted(found)[10] for found in times.values())
    return f'compiled in {seconds:.0f} s, {eager / fast:.2f} times as fast'


def check_graphs(device: torch.device) -> str:
    """CUDA graphs compute the same features."""
    if device.type != 'cuda':
        raise SkipError('CUDA graphs need a GPU')
    model = _build('tiny', device).eval()
    images = torch.randn(1, 3, 224, 224, device=device)
    with torch.no_grad():
        replay = capture_cuda_graph(lambda: model(images), device)
        images.normal_()
        error = max(map(relative_error, replay(), model(images)))
        times = time_in_turns(
            dict(eager=lambda: model(images), graph=replay), 20, device
        )
    assert error < 1e-5, f'relative error {error:.1e}'
    eager, graph = (sorted(found)[10] for found in times.values())
    return f'{eager / graph:.2f} times as fast with one image'


def check_memory(device: torch.device) -> str:
    """Peak memory of a training step per image, with and without with_cp."""
    on_gpu = device.type == 'cuda'
    found = []
    for shape in ((512, 512), (800, 1344)) if on_gpu else ((64, 64),):
        peaks = []
        for with_cp in (False, True):
            model = _build('small', device, with_cp=with_cp).train()
            images = torch.randn(2, 3, *shape, device=device)

            def step(model: nn.Module = model, x: Tensor = images) -> None:
                sum(out.mean() for out in model(x)).backward()

            step()
            peaks.append((peak_memory(step, device) or 0) / len(images))
        # On a CPU, the peak of so small an image is that of the gradients.
        assert peaks[1] < peaks[0] or not on_gpu, f'{peaks} bytes at {shape}'
        without, checkpointed = (f'{peak / 2**20:.0f}' for peak in peaks)
        found.append(
            f'{shape[0]}x{shape[1]} {without} MiB, with_cp {checkpointed} MiB'
        )
    return 'HAT-Net-Small, float32: ' + ', '.join(found)


def check_synchronisation(device: torch.device) -> str:
    """No part of a forward or backward pass waits for the GPU."""
    if device.type != 'cuda':
        raise SkipError('a CPU does not wait for itself')
    model = _build('tiny', device).train()
    images = torch.randn(2, 3, 250, 333, device=device)
    for mode in ('default', 'error'):  # the first step allocates
        torch.cuda.set_sync_debug_mode(mode)
        try:
            sum(out.mean() for out in model(images)).backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return 'none'


CHECKS: dict[str, Callable[[torch.device], str]] = {
    'versions': check_versions,
    'mmcv operators': check_operators,
    'parity with the CPU': check_parity,
    'fast and plain': check_forms,
    'no synchronisation': check_synchronisation,
    'training step': check_training,
    'distributed': check_distributed,
    'resuming': check_resuming,
    'CUDA graphs': check_graphs,
    'memory': check_memory,
    'compile': check_compile,
}
