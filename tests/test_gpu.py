"""What a GPU does differently; tools/gpu_check.sh runs these tests on one.

Without a GPU, those that say something on a CPU run there. What they find,
``found`` in their properties, is part of the report.
"""

import copy
import math
import time
from contextlib import contextmanager
from importlib import import_module
from statistics import median

import pytest
import torch
import torch.distributed as dist
from helpers import ARCHS, DEMOS, free_port
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel
from torch.utils.collect_env import get_nvidia_driver_version, run

from mmhatnet.analysis.timing import peak_memory, time_in_turns
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.datasets.random_batch import make_batch
from mmhatnet.engine.runner import lacks_bfloat16
from mmhatnet.models import HATNet
from mmhatnet.models.compiling import capture_cuda_graph
from mmhatnet.models.kernels import choice
from mmhatnet.operators import describe_operators
from mmhatnet.utils.stack import describe_versions

pytestmark = pytest.mark.gpu
# (H, W): that of ImageNet, one that no window divides, and one whose maps of
# every stage are odd.
SHAPES = ((224, 224), (250, 333), (97, 161))
# Largest ||out - reference|| / ||reference|| of a stage. Rounding errors of
# the layers add up like a random walk, so over the about 100 roundings of a
# path the error is some ten times that of one number: 2^-24 in float32, 2^-11
# in TF32 and float16, 2^-8 in bfloat16.
TOLERANCES = dict(float32=1e-5, tf32=5e-3, float16=5e-3, bfloat16=4e-2)


@pytest.fixture
def gpu(device):
    """For tests that say nothing on a CPU."""
    if device.type != 'cuda':
        pytest.skip('needs a GPU')
    return device


@pytest.fixture
def found(record_property):
    """Function that adds to what a test found."""
    return lambda text: record_property('found', text)


def relative_error(out, reference):
    """||out - reference|| / ||reference|| in float64; NaN if a value is."""
    out, reference = (x.detach().cpu().double() for x in (out, reference))
    return ((out - reference).norm() / reference.norm()).item()


def largest_error(outs, references):
    return torch.tensor([*map(relative_error, outs, references)]).max().item()


@contextmanager
def precision(name, device):
    """Compute convolutions and matrix products in one of TOLERANCES."""
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


def build(arch='tiny', device='cpu', **kwargs):
    """A HATNet, always with the same weights."""
    torch.manual_seed(0)
    return HATNet(arch, **kwargs).to(device)


def test_versions(device, found):
    """Of the packages and, on a GPU, of CUDA and the driver."""
    names = [f'{name} {value}' for name, value in describe_versions().items()]
    if device.type == 'cuda':
        names += [
            f'CUDA {torch.version.cuda}',
            f'cuDNN {torch.backends.cudnn.version()}',
            f'driver {get_nvidia_driver_version(run)}',
            f'{torch.cuda.device_count()} GPUs',
        ]
    found(', '.join(names))


def test_operators(device, found):
    """Those that mmcv compiles, or those in their place."""
    if describe_operators() == 'none':
        pytest.skip('mmcv has no operators')
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
    kept = nms(boxes.to(device), torch.tensor([0.9, 0.8, 0.7]).to(device), 0.5)
    assert kept[1].tolist() == [0, 2]
    maps = torch.arange(16.0, device=device).view(1, 1, 4, 4)
    region = torch.tensor([[0.0, 0, 0, 4, 4]], device=device)
    out = roi_align(maps, region, 1, 1.0, 4, 'avg', True)
    assert out.item() == pytest.approx(7.5)
    found(f'nms and roi_align of {describe_operators()} are right')


@pytest.mark.parametrize(
    'arch',
    ['tiny', *(pytest.param(x, marks=pytest.mark.slow) for x in ARCHS[1:])],
)
def test_parity(arch, device, found):
    """Features against the equations in float64 on the CPU."""
    on_gpu = device.type == 'cuda'
    model, plain = build(arch, device).eval(), build(arch, fast=False).eval()
    plain.double()
    names = TOLERANCES if on_gpu else ('float32', 'bfloat16')
    for shape in SHAPES if on_gpu else [(49, 65)]:
        images = torch.randn(2, 3, *shape)
        with torch.no_grad():
            references = plain(images.double())
        images = images.to(device)
        for name in names:
            for memory_format in torch.contiguous_format, torch.channels_last:
                x = images.to(memory_format=memory_format)
                with torch.no_grad(), precision(name, device):
                    error = largest_error(model(x), references)
                assert error <= TOLERANCES[name], (shape, name, memory_format)
            found(f'{shape[0]}x{shape[1]} {name} {error:.1e}')


def test_gradients(device, found):
    """Features and gradients against the equations in float64 on the CPU."""
    shape = (250, 333) if device.type == 'cuda' else (49, 65)
    images = torch.randn(2, 3, *shape)
    tensors = []
    for model in build(device=device), build(fast=False).double():
        parameter = next(model.parameters())
        x = images.clone().to(parameter).requires_grad_()
        with precision('float32', device):
            outs = model.train()(x)
            sum((out * out.detach().sin()).mean() for out in outs).backward()
        tensors.append([*outs, x.grad, *(p.grad for p in model.parameters())])
    error = largest_error(*tensors)
    assert error < 1e-3
    found(f'largest relative error of {len(tensors[0])} tensors {error:.1e}')


def test_no_synchronisation(gpu):
    """No part of a forward or backward pass waits for the GPU."""
    model = build(device=gpu).train()
    images = torch.randn(2, 3, 250, 333, device=gpu)
    for mode in ('default', 'error'):  # the first step allocates
        torch.cuda.set_sync_debug_mode(mode)
        try:
            sum(out.mean() for out in model(images)).backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('task', DEMOS)
def test_training_step(task, dtype, device, found):
    """Two steps of a recipe, on random images."""
    if dtype != 'float32' and device.type != 'cuda':
        pytest.skip('mixed precision of recipes needs a GPU')
    cfg = load_model_config(DEMOS[task])
    if dtype == 'bfloat16' and lacks_bfloat16(cfg):
        pytest.skip("mmcv's operators have no bfloat16")
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    model = MODELS.build({**cfg.model, 'data_preprocessor': preprocessor})
    model.to(device).train()
    options = ConfigDict(cfg.optim_wrapper)
    if dtype != 'float32':
        options.update(type='AmpOptimWrapper', dtype=dtype)
    wrapper = build_optim_wrapper(model, options)
    batch = make_batch(cfg.default_scope, (128, 128))
    for _ in range(2):
        loss = model.train_step(copy.deepcopy(batch), wrapper)['loss'].item()
        assert math.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
    found(f'loss after one step {loss:.3f}')


def compare_processes(device, rank, count):
    on_gpu = device.type == 'cuda'
    # torch has no SyncBN on a CPU.
    norm = dict(norm_cfg=dict(type='SyncBN')) if on_gpu else {}
    model = build(device=device, **norm).train()
    wrapped = DistributedDataParallel(
        model, device_ids=[device] if on_gpu else None
    )
    torch.manual_seed(rank)
    for _ in range(2):  # an unused parameter raises in the second step
        outs = wrapped(torch.randn(2, 3, 128, 96, device=device))
        sum(out.mean() for out in outs).backward()
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    gradients = [p.grad for p in model.parameters()]
    for tensors in filter(None, (gradients, statistics)):
        found = torch.cat([x.flatten() for x in tensors])
        mean = found.clone()
        dist.all_reduce(mean)
        torch.testing.assert_close(found, mean / count, rtol=1e-5, atol=0)


def run_process(rank, count, port, kind):
    """One of the processes of :func:`test_distributed`."""
    on_gpu = kind == 'cuda'
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        'nccl' if on_gpu else 'gloo',
        init_method=f'tcp://127.0.0.1:{port}',
        rank=rank,
        world_size=count,
    )
    # In a function, as a model that is freed after the group can hang.
    try:
        compare_processes(torch.device(kind, rank * on_gpu), rank, count)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_distributed(device, found):
    """DDP on all GPUs; all processes have equal gradients and statistics."""
    count = torch.cuda.device_count() if device.type == 'cuda' else 2
    args = count, free_port(), device.type
    if count == 1:  # a GPU may allow one process alone
        run_process(0, *args)
    else:
        multiprocessing.spawn(run_process, args, count)
    found(f'{count} processes')


@pytest.mark.slow
def test_resuming(device, found):
    """A training continues on the device from a state of the CPU, and back."""
    images = torch.randn(2, 3, 96, 64)

    def train(state, device):
        model = build(device=device).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        if state:
            model.load_state_dict(state['model'])
            optimizer.load_state_dict(state['optimizer'])
        with precision('float32', device):
            model(images.to(device))[-1].square().mean().backward()
        optimizer.step()
        return dict(model=model.state_dict(), optimizer=optimizer.state_dict())

    cpu, start = torch.device('cpu'), build().state_dict()
    expected = train(train(train(None, cpu), cpu), cpu)['model']
    resumed = train(train(train(None, cpu), device), cpu)['model']
    moved, differs = (
        torch.cat([(a[k].cpu() - b[k]).flatten() for k in b]).norm().item()
        for a, b in ((expected, start), (resumed, expected))
    )
    # Not 0, as AdamW's first steps move a weight by the rate whatever its
    # gradient, and one of about zero may move it the other way.
    assert differs / moved < 0.05
    found(f'the weights moved differently by {differs / moved:.2%}')


def times_faster(slow, fast, device):
    times = time_in_turns(dict(slow=slow, fast=fast), 20, device)
    return f'{median(times["slow"]) / median(times["fast"]):.2f} times as fast'


@torch.no_grad()
def test_cuda_graphs(gpu, found):
    model = build(device=gpu).eval()
    images = torch.randn(1, 3, 224, 224, device=gpu)
    replay = capture_cuda_graph(lambda: model(images), gpu)
    images.normal_()
    assert largest_error(replay(), model(images)) < 1e-5
    speed = times_faster(lambda: model(images), replay, gpu)
    found(f'{speed} with one image')


@pytest.mark.parametrize('dtype', choice.TOLERANCES, ids=str)
@pytest.mark.parametrize('name', ['norm', 'mlp', 'windows'])
def test_kernels(name, dtype, gpu, found):
    """Kernels of Triton, outputs and gradients, against their plain twin."""
    if not choice.HAS_TRITON:
        pytest.skip('needs Triton and torch >= 2.6')
    if name == 'windows' and dtype == torch.float32:
        pytest.skip('has kernels for half precision')
    import_module(f'mmhatnet.models.kernels.{name}')
    error = choice.CHECKS[name](gpu, dtype)
    assert error <= choice.TOLERANCES[dtype]
    found(f'{error:.1e}')


def test_memory(gpu, found):
    """Peak memory of a training step per image, with and without with_cp."""
    for shape in (512, 512), (800, 1344):
        images = torch.randn(2, 3, *shape, device=gpu)
        peaks = []
        for with_cp in (False, True):
            model = build('small', gpu, with_cp=with_cp).train()

            def step(model=model, images=images):
                sum(out.mean() for out in model(images)).backward()

            step()
            peaks.append(peak_memory(step, gpu) / len(images))
        assert peaks[1] < peaks[0]
        without, checkpointed = (f'{peak / 2**20:.0f} MiB' for peak in peaks)
        size = f'{shape[0]}x{shape[1]}'
        found(f'Small, {size}: {without}, with_cp {checkpointed}')


@pytest.mark.slow
@torch.no_grad()
def test_compile(device, found):
    """torch.compile without a graph break; its time and speed."""
    on_gpu = device.type == 'cuda'
    images = torch.randn((8, 3, 224, 224) if on_gpu else (1, 3, 64, 64))
    model, images = build(device=device).eval(), images.to(device)
    # On a CPU, Inductor takes minutes.
    backend = 'inductor' if on_gpu else 'aot_eager'
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    start = time.perf_counter()
    outs = compiled(images)
    seconds = time.perf_counter() - start
    assert largest_error(outs, model(images)) < 1e-2
    speed = times_faster(
        lambda: model(images), lambda: compiled(images), device
    )
    found(f'compiled in {seconds:.0f} s, {speed}')
