"""What HATNet asks of a GPU, counted without one, on fake CUDA tensors."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import CLS_GRIDS, DEMOS
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmhatnet.apis.zoo import load_model_config
from mmhatnet.models import HATNet

if not hasattr(torch, 'get_autocast_dtype'):
    pytest.skip('needs torch >= 2.4', allow_module_level=True)

COPIES = {'clone', 'copy_', '_to_copy', 'constant_pad_nd', 'repeat'}
NOT_WRITING = {'empty', 'new_empty', 'empty_like', '_unsafe_view'}
# torch's kernels for norms take one block of the GPU for each image.
LARGE = 2**18


class Recorder(TorchDispatchMode):
    """Records the operators that write, and the bytes that they write."""

    def __init__(self):
        super().__init__()
        self.written = []
        self.mixed_sums = self.one_block_norms = self.synchronisations = 0

    @staticmethod
    def layout(x):
        formats = torch.contiguous_format, torch.channels_last
        found = [x.is_contiguous(memory_format=f) for f in formats]
        return 'any' if all(found) else found.index(True) if any(found) else 2

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.synchronisations += name in ('_local_scalar_dense', 'nonzero')
        if name in ('native_group_norm', 'native_layer_norm'):
            self.one_block_norms += args[0][0].numel() >= LARGE
        first = out[0] if isinstance(out, tuple | list) else out
        if not isinstance(first, torch.Tensor) or func.is_view:
            return out
        if name in ('add', 'add_') and first.dim() == 4:
            layouts = {
                self.layout(x)
                for x in args
                if isinstance(x, torch.Tensor) and x.shape == first.shape
            }
            self.mixed_sums += len(layouts - {'any'}) > 1
        if name not in NOT_WRITING:
            self.written.append((name, first.numel() * first.element_size()))
        return out


class Trace:
    """One forward pass of HAT-Net-Small."""

    def __init__(self, shape, amp, **grids):
        attention, masks = Counter(), set()

        def sdpa(q, k, v, attn_mask=None):
            attention[attn_mask is not None] += 1
            attention['strided'] += any(t.stride(-1) != 1 for t in (q, k, v))
            if attn_mask is not None:
                masks.add(id(attn_mask))
                kept.append(attn_mask)
            # As the fused kernels lay it out.
            dtype = torch.bfloat16 if amp else q.dtype
            out = q.new_empty(len(q), q.shape[2], q.shape[1], q.shape[3])
            return out.to(dtype).transpose(1, 2)

        kept = []
        recorder = Recorder()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, 'scaled_dot_product_attention', sdpa)
            # torch.autocast would be off without a GPU.
            enabled = torch.is_autocast_enabled('cuda')
            dtype = torch.get_autocast_dtype('cuda')
            torch.set_autocast_dtype('cuda', torch.bfloat16)
            torch.set_autocast_enabled('cuda', amp)
            try:
                with FakeTensorMode(), torch.no_grad(), torch.device('cuda'):
                    model = HATNet('small', **grids).eval()
                    x = torch.empty(shape)
                    with recorder:
                        model(x)
            finally:
                torch.set_autocast_enabled('cuda', enabled)
                torch.set_autocast_dtype('cuda', dtype)
        self.recorder, self.attention, self.masks = recorder, attention, masks
        weights = 2 * sum(p.numel() for p in model.parameters())
        copied = sum(b for name, b in recorder.written if name in COPIES)
        total = sum(b for _, b in recorder.written)
        if amp:  # casts of the weights are cached in training
            copied, total = copied - weights, total - weights
        self.copies, self.mib = copied / total, total / 2**20
        self.operators = sum(b >= 2**16 for _, b in recorder.written)


@pytest.fixture(scope='module', params=['float32', 'bfloat16'])
def amp(request):
    return request.param == 'bfloat16'


@pytest.fixture(
    scope='module',
    params=[((8, 3, 224, 224), CLS_GRIDS), ((2, 3, 800, 1344), {})],
    ids=['224x224', '800x1344'],
)
def trace(request, amp):
    shape, grids = request.param
    return Trace(shape, amp, **grids)


def test_layouts(trace):
    assert trace.recorder.mixed_sums == 0


def test_norms_use_the_whole_gpu(trace):
    assert trace.recorder.one_block_norms == 0


def test_copies(trace):
    assert trace.copies <= 0.15


def test_no_synchronisation(trace):
    assert trace.recorder.synchronisations == 0


def test_attention(trace):
    """Fused kernels want a contiguous last dimension."""
    assert trace.attention['strided'] == 0
    # 13 blocks with local and global attention, 3 with one over the map.
    assert trace.attention[True] + trace.attention[False] == 29
    # At 800x1344, windows of the stages 1 and 2 are partial.
    masked = trace.attention[True]
    assert (masked, len(trace.masks)) in ((0, 0), (11, 2))


def test_bytes_and_operators():
    trace = Trace((2, 3, 800, 1344), True)
    assert trace.mib <= 5000
    assert trace.operators <= 450
    assert (trace.attention[True], len(trace.masks)) == (11, 2)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'medium', 'large'])
@pytest.mark.parametrize('fast', [True, False])
def test_no_other_device(arch, fast):
    """Fake tensors refuse operators on two devices."""
    with FakeTensorMode(), torch.device('cuda'):
        maps = HATNet(arch, fast=fast)(torch.empty(2, 3, 97, 161))
    assert {each.device.type for each in maps} == {'cuda'}


@pytest.mark.parametrize('task', DEMOS)
def test_whole_models(task):
    """As far as no operator depends on values, which fake tensors lack."""
    cfg = load_model_config(DEMOS[task])
    cfg.model.backbone.init_cfg = None
    recorder = Recorder()
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        FakeTensorMode(),
        torch.device('cuda'),
    ):
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
        with recorder, torch.no_grad():
            maps = model.extract_feat(torch.empty(2, 3, 128, 160))
            outs = list(maps)
            if task == 'Image Classification':
                outs.append(model.head(maps))
            elif task == 'Semantic Segmentation':
                outs.append(model.decode_head(maps))
            elif task == 'Object Detection':
                outs += sum(model.bbox_head(maps), [])
            else:
                outs += sum(model.rpn_head(maps), [])
                outs += model.roi_head.bbox_head(torch.empty(9, 256, 7, 7))
                regions = torch.empty(9, 256, 14, 14)
                outs.append(model.roi_head.mask_head(regions))
    assert len(outs) > 1
    assert {each.device.type for each in outs} == {'cuda'}
    assert recorder.synchronisations == 0
