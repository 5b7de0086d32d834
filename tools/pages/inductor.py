"""Counts what torch.compile asks of a GPU, on a machine without one.

AOTAutograd traces a training step on fake tensors, and Inductor lowers it to
kernels, whose reads and writes its scheduler knows. No code is generated.
Their interfaces change: this is for torch 2.10.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import torch
import triton.runtime
from mmengine.config import ConfigDict
from torch import Tensor, fx, nn
from torch._dynamo import utils as dynamo
from torch._dynamo.device_interface import CudaInterface
from torch._functorch import aot_autograd as aot
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import compile_fx
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput, UserDefinedTritonKernel
from torch._inductor.scheduler import BaseSchedulerNode, NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor
from triton.backends.compiler import GPUTarget

from mmhatnet.analysis.launches import (
    FusedAttention,
    Launches,
    autocast,
    build_fake,
    compute_gradients,
)

H100 = SimpleNamespace(
    name='H100', major=9, minor=0, multi_processor_count=132, warp_size=32
)


class LastMap(nn.Module):
    """A backbone that returns its last map alone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        outs = self.backbone(images)
        return outs[-1] if isinstance(outs, tuple | list) else outs


def count_compiled(
    backbone: ConfigDict,
    shape: Sequence[int],
    batch: int = 1,
    train: bool = False,
    amp: str | None = None,
) -> Launches:
    """Count the kernels of a compiled backbone, and their bytes.

    The arguments are those of ``count_launches``. What is kept is not counted.
    """
    return compile_step(*build_fake(backbone, shape, batch, train), train, amp)


def compile_step(
    model: nn.Module, images: FakeTensor, train: bool, amp: str | None = None
) -> Launches:
    """Count for a model whose weights and images are fake tensors."""
    counts = Launches()
    with (
        _pretended_gpu(),
        images.fake_mode,
        FusedAttention(),
        torch.set_grad_enabled(train),
    ):
        compiled = aot.aot_module(
            LastMap(model),
            fw_compiler=_counter(counts, is_backward=False),
            bw_compiler=_counter(counts, is_backward=True),
            partition_fn=min_cut_rematerialization_partition,
            decompositions=select_decomp_table(),
        )
        with autocast(amp):
            last = compiled(images)
        if train:  # and compile the backward pass
            grad = torch.empty_like(last)
            compute_gradients([last], list(model.parameters()), [grad])
    return counts


def _counter(counts: Launches, is_backward: bool) -> Callable:
    def count(graph: fx.GraphModule, inputs: Sequence) -> Callable:
        mode = torch._guards.detect_fake_mode(inputs)
        compile_fx.view_to_reshape(graph)
        with V.set_fake_mode(mode):
            compile_fx._recursive_post_grad_passes(graph)
        lowering = GraphLowering(
            graph, example_inputs=inputs, is_backward=is_backward
        )
        with (
            V.set_fake_mode(mode),
            V.set_graph_handler(lowering),
            V.set_extern_kernel_nodes([]),
            DebugContext(),
        ):
            lowering.run(*inputs)
            lowering._update_scheduler()
            for node in lowering.scheduler.nodes:
                if _is_kernel(node):
                    counts.names[type(node).__name__] += 1
                    counts.moved += _bytes(node)
        return aot.make_boxed_func(graph.forward)

    return count


def _is_kernel(node: BaseSchedulerNode) -> bool:
    """Whether a node is a kernel, and not a part of another one's results."""
    is_part = isinstance(node.node, MultiOutput)
    return not is_part and not isinstance(node, NopKernelSchedulerNode)


def _bytes(node: BaseSchedulerNode) -> int:
    if isinstance(node.node, UserDefinedTritonKernel):
        # Inductor takes what the kernel writes for read, too.
        sizes = (
            x.get_numel() * x.get_dtype().itemsize for x in node.node.inputs
        )
        return int(sum(sizes))
    return node.get_read_write_buffers_sizes()


@contextmanager
def _pretended_gpu() -> Iterator[None]:
    """Let torch believe that it has an H100, and not use it."""

    def grad(outputs, inputs, grad_outputs, **_):
        return compute_gradients(outputs, inputs, grad_outputs)

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget('cuda', 90, 32)
    )
    changes = {
        torch.cuda: dict(
            is_available=lambda: True,
            current_device=lambda: 0,
            get_device_properties=lambda *_: H100,
            get_device_capability=lambda *_: (9, 0),
            get_rng_state=lambda *_: torch.zeros(16, dtype=torch.uint8),
            set_rng_state=lambda *_: None,
        ),
        CudaInterface.Worker: dict(
            get_device_properties=staticmethod(lambda *_: H100),
            current_device=staticmethod(lambda: 0),
        ),
        CudaInterface: dict(
            get_device_properties=staticmethod(lambda *_: H100)
        ),
        dynamo: dict(
            preserve_rng_state=nullcontext,
            assert_no_fake_params_or_buffers=lambda _: None,
        ),
        aot: dict(preserve_rng_state=nullcontext),
        triton.runtime.driver: dict(_active=driver, _default=driver),
        fake_tensor: dict(init_gpu_context=lambda _: None),
        torch.autograd: dict(grad=grad),
        torch.compiler: dict(_is_compiling_flag=True),
    }
    with ExitStack() as stack:
        for target, names in changes.items():
            stack.enter_context(patch.multiple(target, **names))
        yield
