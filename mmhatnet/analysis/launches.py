"""Count what a step of a backbone asks of a GPU, on a machine without one.

The step runs on torch's fake tensors, which have shapes and a device but no
values. ``tools/analysis_tools/count_launches.py`` is a command over this
module.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from .complexity import build_on_meta, image_channels
from .timing import watching_kept

aten = torch.ops.aten

# Operators that launch nothing, besides views.
IDLE = {
    '_unsafe_view',
    'empty',
    'empty_like',
    'empty_strided',
    'lift_fresh',
    'new_empty',
    'new_empty_strided',
}
# Operators that read their maps twice.
NORMS = {
    'native_group_norm',
    'native_group_norm_backward',
    'native_layer_norm_backward',
    'single_group_norm',
    'single_group_norm_backward',
}
# Operators that do not read their first argument, but write it.
WRITING = {'copy_', 'fill_', 'zero_', '_foreach_copy_'}


@dataclass
class Launches:
    """What a step of a model asks of a GPU.

    Attributes:
        moved (int): Bytes that the operators read and write.
        kept (int): Bytes that are kept for the backward pass, without the
            parameters. 0 in inference.
        names (Counter): Operators that launch kernels, by name.
    """

    moved: int = 0
    kept: int = 0
    names: Counter[str] = field(default_factory=Counter)

    @property
    def operators(self) -> int:
        """Number of operators. Each takes the host some microseconds."""
        return self.names.total()


def count_launches(
    backbone: ConfigDict,
    shape: Sequence[int],
    batch: int = 1,
    train: bool = False,
    amp: str | None = None,
) -> Launches:
    """Count the operators of a backbone on a GPU, and the bytes they move.

    Paths are not dropped. In training, the last map has a gradient.

    Args:
        backbone (ConfigDict): The config of a backbone, as
            ``load_backbone_config`` reads it.
        shape (Sequence[int]): Height and width of the images in pixels.
        batch (int): Number of images. Defaults to 1.
        train (bool): Count forward and backward pass instead of inference.
            Defaults to False.
        amp (str, optional): Type for autocast, 'bfloat16' or 'float16'.
            Defaults to None, which is float32.

    Returns:
        Launches: The counts.

    Raises:
        ValueError: If torch is older than 2.4.
    """
    if not hasattr(torch, 'set_autocast_dtype'):
        raise ValueError('counting on fake GPUs needs torch >= 2.4')
    model, images = build_fake(backbone, shape, batch, train)
    with images.fake_mode, torch.device('cuda'):
        return count_step(model, images, train, amp)


def build_fake(
    backbone: ConfigDict, shape: Sequence[int], batch: int, train: bool
) -> tuple[nn.Module, FakeTensor]:
    """Build a backbone with fake weights on a GPU, and fake images.

    The arguments are those of :func:`count_launches`.
    """
    cfg = Config(dict(model=backbone))
    model = build_on_meta(cfg, plain=False)
    model.train(train)  # mm's backbones do not return themselves
    for module in model.modules():
        if hasattr(module, 'drop_prob'):  # DropPath of mmcv or timm
            module.drop_prob = 0
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device('cuda'):
        model._apply(lambda x: torch.empty(x.shape, dtype=x.dtype))
        return model, torch.empty(batch, image_channels(cfg), *shape)


def count_step(
    model: nn.Module,
    images: Tensor,
    train: bool = False,
    amp: str | None = None,
) -> Launches:
    """Count a step of a backbone whose weights and images are fake tensors.

    The arguments are those of :func:`count_launches`.
    """
    recorder = Recorder()
    with (
        torch.set_grad_enabled(train),
        watching_kept(model) as kept,
        FusedAttention(),
        recorder,
    ):
        with autocast(amp):
            outs = model(images)
        last = outs[-1] if isinstance(outs, tuple | list) else outs
        recorder.counts.kept = sum(kept.values())
        if train:
            params = [x for x in model.parameters() if x.requires_grad]
            compute_gradients([last], params, [torch.empty_like(last)])
    return recorder.counts


@contextmanager
def autocast(amp: str | None) -> Iterator[None]:
    """``torch.autocast``, which would be off on a machine without a GPU."""
    enabled = torch.is_autocast_enabled('cuda')
    dtype = torch.get_autocast_dtype('cuda')
    torch.set_autocast_dtype('cuda', getattr(torch, amp or 'float16'))
    torch.set_autocast_enabled('cuda', bool(amp))
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if not torch.autocast_decrement_nesting():
            torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', enabled)
        torch.set_autocast_dtype('cuda', dtype)


@torch.no_grad()
def compute_gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor],
) -> list[Tensor | None]:
    """Compute gradients as ``torch.autograd.grad``, without its engine.

    The engine asks the driver for streams, also on fake tensors, so this calls
    the nodes of the graph itself.
    """
    from torch.autograd.graph import get_gradient_edge  # since torch 2.2

    with torch.enable_grad():  # older versions of torch need it
        edges = [
            get_gradient_edge(x) if x.requires_grad else None for x in inputs
        ]
    ends = {edge.node for edge in edges if edge}
    grads: dict[Any, list] = {}
    for out, grad in zip(outputs, grad_outputs, strict=True):
        _add(grads, out.grad_fn, out.output_nr, grad)
    for node in _from_last(list(grads), ends):
        if node in grads:
            for grad, (target, i) in _step_back(node, grads.pop(node)):
                _add(grads, target, i, grad)
    return [
        grads[edge.node][edge.output_nr]
        if edge and edge.node in grads
        else None
        for edge in edges
    ]


def _step_back(node: Any, grads: list) -> Iterable[tuple[Any, tuple]]:
    """Gradients of a node's inputs, each with where it goes."""
    edges = [edge for edge in node.next_functions if edge[0] is not None]
    if hasattr(node, 'needs_input_grad'):  # an autograd.Function
        found = node.apply(*grads)
        needed = node.needs_input_grad
    else:
        found = node(*grads)
        needed = [target is not None for target, _ in node.next_functions]
    found = found if isinstance(found, tuple) else (found,)
    return zip(compress(found, needed), edges, strict=True)


def _add(grads: dict[Any, list], node: Any, i: int, grad: Any) -> None:
    expected = node._input_metadata[i]
    slots = grads.setdefault(node, [None] * len(node._input_metadata))
    if grad is not None:
        grad = grad.sum_to_size(expected.shape).to(expected.dtype)
        slots[i] = grad if slots[i] is None else slots[i] + grad


def _from_last(roots: list[Any], ends: set[Any]) -> list[Any]:
    """Nodes of a graph before its ends, the last that ran first."""
    seen, left = {*roots} | ends, [*roots]
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                left.append(node)
    return sorted(seen - ends, key=lambda node: -node._sequence_nr())


class FusedAttention(TorchFunctionMode):
    """Choose a fused attention without asking a driver which there are."""

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            func = _attend
        return func(*args, **(kwargs or {}))


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    **kwargs: Any,
) -> Tensor:
    q, k, v = (_cast(x) for x in (q, k, v))
    if attn_mask is None and q.dtype != torch.float32:
        return aten._scaled_dot_product_flash_attention(
            q, k, v, dropout_p, **kwargs
        )[0]
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zeros = torch.zeros_like(attn_mask, dtype=q.dtype)
        attn_mask = zeros.masked_fill_(~attn_mask, float('-inf'))
    return aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, torch.is_grad_enabled(), dropout_p, **kwargs
    )[0]


def _cast(x: Tensor) -> Tensor:
    if torch.is_autocast_enabled('cuda'):
        return x.to(torch.get_autocast_dtype('cuda'))
    return x


class Recorder(TorchDispatchMode):
    """Counts operators and bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Launches()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.is_view or name in IDLE:
            return out
        if name.startswith('convolution'):
            out = _lay_out(name, out, args)
        mutable = func._schema.is_mutable
        written = _bytes(args[:1] if mutable else [out])
        if written:
            passes = 2 if name in NORMS else 1
            self.counts.names[name] += 1
            self.counts.moved += written + passes * _read(name, args, kwargs)
        return out


def _read(name: str, args: Sequence, kwargs: Mapping) -> int:
    if name == 'convolution_backward':  # computes each gradient on its own
        grad, x, weight, *_, (of_x, of_weight, _) = args
        inputs = of_x * [grad, weight], of_weight * [grad, x]
        return sum(map(_bytes, inputs))
    return _bytes([*args[name in WRITING :], *kwargs.values()])


def _lay_out(name: str, out: Any, args: Sequence) -> Any:
    """Lay the results of a convolution out as cuDNN does.

    Without a driver, torch does not find cuDNN.
    """
    if name == 'convolution_backward':
        args = args[1:]
    formats = [suggest_memory_format(x) for x in args[:2]]
    if torch.channels_last not in formats:
        return out
    return tree_map(
        lambda x: (
            x.contiguous(memory_format=torch.channels_last)
            if isinstance(x, Tensor) and x.dim() == 4
            else x
        ),
        out,
    )


def _bytes(values: Iterable[Any]) -> int:
    """Bytes of the tensors on a GPU, each counted once."""
    found = {}
    for x in tree_flatten(list(values))[0]:
        if isinstance(x, Tensor) and x.device.type == 'cuda':
            place = x.untyped_storage()._cdata, x.storage_offset(), x.shape
            sizes = zip(x.shape, x.stride(), strict=True)
            # An expanded tensor is read once.
            count = prod(size for size, stride in sizes if stride)
            found[place] = count * x.element_size()
    return sum(found.values())
