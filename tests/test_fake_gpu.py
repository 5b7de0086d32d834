"""What HATNet asks of a GPU, counted without one, on fake CUDA tensors."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import CLS_GRIDS, TOOLS, call_tool, needs_triton
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

COPIES = {'clone', 'copy_', '_to_copy', 'constant_pad_nd', 'repeat'}
NOT_WRITING = {'empty', 'new_empty', 'empty_like', '_unsafe_view'}
CLASSIFIER = 'hatnet-small_8xb128_in1k'
DETECTOR = 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
# torch's kernels for norms take one block of the GPU for each image.
LARGE = 2**18


def layout(x):
    formats = torch.contiguous_format, torch.channels_last
    found = [x.is_contiguous(memory_format=f) for f in formats]
    return 'any' if all(found) else found.index(True) if any(found) else 2


class Recorder(TorchDispatchMode):
    """Counts operators that a GPU is slow at, and the bytes they write."""

    def __init__(self):
        super().__init__()
        self.counts, self.bytes = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ('_local_scalar_dense', 'nonzero'):
            self.counts['synchronisations'] += 1
        if name in ('native_group_norm', 'native_layer_norm'):
            self.counts['one-block norms'] += args[0][0].numel() >= LARGE
        first = out[0] if isinstance(out, tuple | list) else out
        if not isinstance(first, torch.Tensor) or func.is_view:
            return out
        if name in ('add', 'add_') and first.dim() == 4:
            layouts = {
                layout(x)
                for x in args
                if isinstance(x, torch.Tensor) and x.shape == first.shape
            }
            self.counts['mixed sums'] += len(layouts - {'any'}) > 1
        if name not in NOT_WRITING:
            self.bytes[name] += first.numel() * first.element_size()
        return out


@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize(
    ('shape', 'grids', 'masked'),
    [
        ((8, 3, 224, 224), CLS_GRIDS, (0, 0)),
        # Windows of the stages 1 and 2 are partial.
        ((2, 3, 800, 1344), {}, (11, 2)),
    ],
)
def test_forward_pass(shape, grids, masked, amp, monkeypatch):
    calls = []

    def sdpa(q, k, v, attn_mask=None):
        calls.append(((q, k, v), attn_mask))
        # As the fused kernels lay it out.
        out = q.new_empty(len(q), q.shape[2], q.shape[1], q.shape[3])
        return out.to(torch.bfloat16 if amp else q.dtype).transpose(1, 2)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', sdpa)
    recorder, torch_only = Recorder(), select_kernels('none')
    with FakeTensorMode(), torch.no_grad(), torch.device('cuda'), torch_only:
        model = HATNet('small', **grids).eval()
        x = torch.empty(shape)
        with autocast('bfloat16' if amp else None), recorder:
            model(x)
    assert not +recorder.counts
    copied = sum(recorder.bytes[name] for name in COPIES)
    total = recorder.bytes.total()
    if amp:  # casts of the weights are cached in training
        casts = 2 * sum(p.numel() for p in model.parameters())
        copied, total = copied - casts, total - casts
    assert copied <= 0.15 * total
    # 13 blocks with local and global attention, 3 with one over the map.
    assert len(calls) == 29
    masks = [mask for _, mask in calls if mask is not None]
    assert (len(masks), len({*map(id, masks)})) == masked
    # Fused kernels want a contiguous last dimension.
    assert all(x.stride(-1) == 1 for inputs, _ in calls for x in inputs)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'medium', 'large'])
@pytest.mark.parametrize('fast', [True, False])
def test_no_other_device(arch, fast):
    """Fake tensors refuse operators on two devices."""
    with FakeTensorMode(), torch.device('cuda'):
        maps = HATNet(arch, fast=fast)(torch.empty(2, 3, 97, 161))
    assert {each.device.type for each in maps} == {'cuda'}


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


@needs_triton
@pytest.mark.parametrize(
    ('config', 'batch', 'shape', 'kernels', 'operators', 'gib'),
    [
        (CLASSIFIER, 64, (224, 224), '', 1200, 33),
        (DETECTOR, 2, (800, 1344), '', 1250, 23),
        # Without Triton, as measured.
        (CLASSIFIER, 64, (224, 224), 'casts', 1558, 52.9),
        (DETECTOR, 2, (800, 1344), 'casts', 2227, 37.2),
    ],
)
def test_budget(config, batch, shape, kernels, operators, gib):
    """Of a training step with bfloat16."""
    backbone = load_backbone_config(config)
    with select_kernels(kernels):
        found = count_launches(backbone, shape, batch, True, 'bfloat16')
    assert found.operators <= operators
    assert found.moved / 2**30 <= gib


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
