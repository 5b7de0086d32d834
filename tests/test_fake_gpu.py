"""What HATNet asks of a GPU, counted without one, on fake CUDA tensors."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import CLS_GRIDS, TOOLS, call_tool, needs_triton, run_tool
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmhatnet.analysis.launches import autocast, count_launches, count_step
from mmhatnet.analysis.timing import kept_memory
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.models import HATNet
from mmhatnet.models.kernels import select_kernels

if not hasattr(torch, 'get_autocast_dtype'):
    pytest.skip('needs torch >= 2.4', allow_module_level=True)

COPIES = 'clone', 'copy_', 'constant_pad_nd', 'repeat'
CLASSIFIER = 'hatnet-small_8xb128_in1k'
SWIN = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
DETECTOR = 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
# torch's kernels for norms take one block of the GPU for each image.
LARGE = 2**18


class LargeNorms(TorchDispatchMode):
    """Counts norms of large maps by torch's kernels."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ('native_group_norm', 'native_layer_norm'):
            self.count += args[0][0].numel() >= LARGE
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize(
    ('shape', 'grids', 'masked', 'copies'),
    [
        ((8, 3, 224, 224), CLS_GRIDS, (0, 0), 18),
        # Windows of the stages 1 and 2 are partial.
        ((2, 3, 800, 1344), {}, (11, 2), 42),
    ],
)
def test_forward_pass(shape, grids, masked, copies, amp, monkeypatch):
    calls = []

    def sdpa(q, k, v, attn_mask=None):
        calls.append(((q, k, v), attn_mask))
        # As the fused kernels lay it out.
        out = q.new_empty(len(q), q.shape[2], q.shape[1], q.shape[3])
        return out.to(torch.bfloat16 if amp else q.dtype).transpose(1, 2)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', sdpa)
    norms, torch_only = LargeNorms(), select_kernels('none')
    with FakeTensorMode(), torch.device('cuda'), torch_only, norms:
        model = HATNet('small', **grids).eval()
        x, dtype = torch.empty(shape), 'bfloat16' if amp else None
        names = count_step(model, x, amp=dtype).names
    assert norms.count == 0
    assert not names['_local_scalar_dense'] + names['nonzero']  # it waits
    assert sum(names[name] for name in COPIES) <= copies
    # 13 blocks with local and global attention, 3 with one over the map.
    assert len(calls) == 29
    masks = [mask for _, mask in calls if mask is not None]
    assert (len(masks), len({*map(id, masks)})) == masked
    # Fused kernels want a contiguous last dimension.
    assert all(x.stride(-1) == 1 for inputs, _ in calls for x in inputs)


@pytest.mark.parametrize('fast', [True, False])
def test_no_other_device(fast):
    """Fake tensors refuse operators on two devices."""
    with FakeTensorMode(), torch.device('cuda'):
        HATNet('tiny', fast=fast)(torch.empty(2, 3, 97, 161))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        y = 2 * self.conv(x)
        return y + y * self.scale


def test_counts():
    """Each operator of a small model, counted by hand."""
    with FakeTensorMode(), torch.device('cuda'):
        images = torch.empty(2, 3, 4, 5)
        inference = count_step(Model(), images)
        training = count_step(Model(), images, train=True)
    assert inference.names == Counter(convolution=1, mul=2, add=1)
    # With the sum over images and pixels for the scale.
    backward = Counter(convolution_backward=1, mul=3, add=1, sum=1)
    assert training.names == inference.names + backward
    images, weights, scale, out = 2 * 3 * 4 * 5, 8 * 3 + 8, 8, 2 * 8 * 4 * 5
    # The convolution, the product by 2, the product with scale, the sum.
    numbers = images + weights, out, out + scale, 2 * out
    assert inference.moved == 4 * (sum(numbers) + 4 * out)
    assert inference.kept == 0
    # What a CPU keeps of the same model.
    assert training.kept == kept_memory(Model(), torch.rand(2, 3, 4, 5))


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('in_graph', [False, True])
def test_residual_stream(train, in_graph, monkeypatch):
    """Autocast leaves all maps between layers in half precision."""
    monkeypatch.setattr(torch.compiler, '_is_compiling_flag', in_graph)
    with FakeTensorMode(), torch.device('cuda'):
        model, images = HATNet('tiny').train(train), torch.empty(2, 3, 97, 161)
    found = set()
    for block in (block for stage in model.stages for block in stage):
        for part in block, block.attn, block.mlp:
            part.register_forward_hook(
                lambda _, inputs, out: found.update(
                    (inputs[0].dtype, out.dtype)
                )
            )
    with images.fake_mode, autocast('bfloat16'), torch.set_grad_enabled(train):
        model(images)
    assert found == {torch.bfloat16}


@needs_triton
@pytest.mark.parametrize(
    ('config', 'batch', 'shape', 'kernels', 'operators', 'gib'),
    [
        (CLASSIFIER, 64, (224, 224), '', 1200, 33),
        (DETECTOR, 2, (800, 1344), '', 1250, 23),
        # Without Triton, as measured.
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (CLASSIFIER, 64, (224, 224), 'casts', 1558, 52.9),
                (DETECTOR, 2, (800, 1344), 'casts', 2227, 37.2),
            )
        ),
    ],
)
def test_budget(config, batch, shape, kernels, operators, gib):
    """Of a training step with bfloat16."""
    backbone = load_backbone_config(config)
    with select_kernels(kernels):
        found = count_launches(backbone, shape, batch, True, 'bfloat16')
    assert found.operators <= operators
    assert found.moved / 2**30 <= gib


needs_inductor = pytest.mark.skipif(
    torch.__version__[:4] != '2.10',
    reason='needs the interfaces of Inductor in torch 2.10',
)


def count_compiled(code):
    """The last numbers that a program prints.

    Inductor keeps what it learns of a GPU, so this is a process of its own.
    """
    folders = Path(__file__).parent, TOOLS / 'pages'
    path = os.pathsep.join(map(str, folders))
    output = run_tool('-c', code, timeout=1200, PYTHONPATH=path)
    return [int(word) for word in output.splitlines()[-1].split()]


@needs_triton
@needs_inductor
def test_compiled_counts():
    """Each kernel of small models, counted by hand."""
    found = count_compiled(
        """if True:
        import torch
        from inductor import compile_step
        from test_fake_gpu import FakeTensorMode, Model
        from mmhatnet.models import GroupNorm1

        with FakeTensorMode(), torch.device('cuda'):
            small = Model(), torch.empty(2, 3, 4, 5)
            maps = torch.empty(2, 64, 32, 32)
            maps = maps.contiguous(memory_format=torch.channels_last)
            norm = GroupNorm1(64), maps
        for model, train in (small, False), (small, True), (norm, False):
            counts = compile_step(*model, train)
            print(counts.operators, counts.moved // 4, end=' ')
        """
    )
    image, weight, bias, scale, out = 2 * 3 * 4 * 5, 8 * 3, 8, 8, 2 * 8 * 4 * 5
    forward = image + weight + out, out + bias + scale + out
    assert found[:2] == [2, sum(forward)]
    # The backward pass gets twice the result of the convolution.
    backward = 3 * out + 2 * scale, out + image + 2 * weight + bias
    assert found[2:4] == [4, sum(forward) + out + sum(backward)]
    # Two kernels read the maps, one writes them. Their statistics are small.
    maps = 2 * 64 * 32 * 32
    assert found[4] == 2
    assert 3 * maps < found[5] < 3.05 * maps


@pytest.mark.slow
@needs_triton
@needs_inductor
def test_compiled_training_moves_less_than_swin():
    ours, swin = count_compiled(
        f"""if True:
        from inductor import count_compiled
        from mmhatnet.apis.zoo import load_backbone_config

        for config in {CLASSIFIER!r}, {SWIN!r}:
            backbone = load_backbone_config(config)
            step = (224, 224), 64, True, 'bfloat16'
            print(count_compiled(backbone, *step).moved, end=' ')
        """
    )
    assert ours < swin


def test_tool():
    output = call_tool(
        TOOLS / 'analysis_tools' / 'count_launches.py',
        *('hatnet-tiny_8xb128_in1k', '--shape', 64, 96, '--train'),
        *('--amp', 'float16', '--cfg-options', 'model.backbone.fast=False'),
    )
    backbone = load_backbone_config('hatnet-tiny_8xb128_in1k')
    backbone.fast = False
    found = count_launches(backbone, (64, 96), 1, True, 'float16')
    assert f'Operators: {found.operators}\n' in output
    assert f'Kept for the backward pass: {found.kept / 2**30:.2f}' in output
