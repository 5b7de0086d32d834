"""Compiles Triton kernels for GPUs that are not there."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import INTERPRETED

# Of A100, H100 and B200.
CAPABILITIES = [
    pytest.param(80, marks=pytest.mark.slow),
    90,
    pytest.param(100, marks=pytest.mark.slow),
]
on_each_gpu = pytest.mark.parametrize('capability', CAPABILITIES)


def compile_kernel(kernel, capability, num_warps=4, **arguments):
    """Compile a kernel, and get what a thread of it takes.

    Args:
        kernel (JITFunction): A function with ``@triton.jit``.
        capability (int): The GPU's, such as 90.
        num_warps (int): As for a launch. Defaults to 4.
        **arguments: The type of an argument, such as 'fp32', or '*bf16:16'
            for a pointer that 16 divides; or the value of a constant.

    Returns:
        dict[str, int]: ``registers``, bytes that are ``spilled``, bytes of
        ``shared`` memory of the block, and ``wide`` loads, of 16 bytes.
    """
    if INTERPRETED:
        pytest.skip('interpreted kernels cannot be compiled')
    triton = pytest.importorskip('triton', '3.3')
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    programs = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
    if not (programs / 'cuobjdump').exists():
        pytest.skip('this Triton has no cuobjdump')
    types, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = arguments.pop(name)
        if isinstance(value, str):
            types[name], *divisor = value.split(':')
            if divisor:
                divisibility = ['tt.divisibility', int(*divisor)]
                attributes[i,] = [divisibility]
        else:
            types[name], constants[i,] = 'constexpr', value
    assert not arguments, arguments
    compiled = triton.compile(
        ASTSource(kernel, types, constants, attributes),
        target=GPUTarget('cuda', capability, 32),
        options=dict(num_warps=num_warps),
    )

    def dump(option):
        command = [programs / 'cuobjdump', option, cubin]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout

    cubin = Path(triton.knobs.cache.dir) / f'{kernel.__name__}.cubin'
    cubin.write_bytes(compiled.asm['cubin'])
    usage = dump('-res-usage')
    registers, stack, local = (
        int(re.search(rf'{name}:(\d+)', usage)[1])
        for name in ('REG', 'STACK', 'LOCAL')
    )
    return dict(
        registers=registers,
        spilled=stack + local,
        shared=compiled.metadata.shared,
        wide=len(re.findall(r'LDG\.E\S*\.128', dump('-sass'))),
    )


def record_graphs(function, monkeypatch, *inputs, **options):
    """Make the graphs that torch.compile would make for an H100.

    Nothing is computed. torch compiles the kernels to see what they change.

    Args:
        function (Callable): Computes a tensor by kernels.
        monkeypatch (MonkeyPatch): Puts a driver of Triton in place.
        *inputs (Tensor): The inputs, on a CPU.
        **options: Further arguments of :func:`torch.compile`.

    Returns:
        list[Counter]: Names of the operators of the forward graph, and of the
        backward graph.
    """
    if INTERPRETED:
        pytest.skip('interpreted kernels cannot be compiled')
    triton = pytest.importorskip('triton', '3.3')
    from functorch.compile import (
        make_boxed_func,
        min_cut_rematerialization_partition,
    )
    from torch._dynamo.backends.common import aot_autograd
    from triton.backends.compiler import GPUTarget

    target = GPUTarget('cuda', 90, 32)
    driver = SimpleNamespace(get_current_target=lambda: target)
    monkeypatch.setattr(triton.runtime.driver, '_active', driver)
    graphs = []

    def make_like(x):
        if not isinstance(x, torch.Tensor):
            return x
        shape, strides = map(int, x.shape), map(int, x.stride())
        return torch.empty_strided([*shape], [*strides], dtype=x.dtype)

    def record(graph, _):
        nodes = list(graph.graph.nodes)
        graphs.append(Counter(str(node.target) for node in nodes))
        outs = [out and out.meta['val'] for out in nodes[-1].args[0]]
        return make_boxed_func(lambda *_: [*map(make_like, outs)])

    torch._dynamo.reset()
    backend = aot_autograd(
        fw_compiler=record,
        bw_compiler=record,
        partition_fn=min_cut_rematerialization_partition,
    )
    options = dict(backend=backend, fullgraph=True, **options)
    torch.compile(function, **options)(*inputs).sum().backward()
    torch._dynamo.reset()
    return graphs
