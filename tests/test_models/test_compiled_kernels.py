"""Triton kernels, compiled for GPUs that are not there."""

import re
import subprocess
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import INTERPRETED, TORCH, needs_triton

from mmhatnet.models import GroupNorm1, cuda, fast, forms
from mmhatnet.models.hatnet import HMHSA, MLP, HATNetBlock

pytestmark = [
    needs_triton,
    pytest.mark.skipif(INTERPRETED, reason='interpreted, not compiled'),
]
slow = pytest.mark.slow
# Of H100, A100 and B200.
on_each_gpu = pytest.mark.parametrize(
    'capability',
    [90, pytest.param(80, marks=slow), pytest.param(100, marks=slow)],
)


@pytest.fixture
def triton(monkeypatch, tmp_path):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    return pytest.importorskip('triton', '3.3')


@pytest.fixture
def compile_kernel(triton):
    """Function that compiles a kernel, and tells what a thread takes.

    Its ``arguments`` are the type of an argument, such as 'fp32', or
    '*bf16:16' for a pointer that 16 divides, or the value of a constant.
    Returned are ``registers``, bytes that are ``spilled``, bytes of ``shared``
    memory of the block, and ``wide`` loads, of 16 bytes.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    programs = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
    if not (programs / 'cuobjdump').exists():
        pytest.skip('this Triton has no cuobjdump')

    def compile_(kernel, capability, warps, arguments, default):
        types, constants, attributes = {}, {}, {}
        for i, name in enumerate(kernel.arg_names):
            value = arguments.get(name, default)
            if isinstance(value, str):
                types[name], *divisor = value.split(':')
                if divisor:
                    divisibility = ['tt.divisibility', int(*divisor)]
                    attributes[i,] = [divisibility]
            else:
                types[name], constants[i,] = 'constexpr', value
        compiled = triton.compile(
            ASTSource(kernel, types, constants, attributes),
            target=GPUTarget('cuda', capability, 32),
            options=dict(num_warps=warps),
        )
        cubin = Path(triton.knobs.cache.dir) / f'{kernel.__name__}.cubin'
        cubin.write_bytes(compiled.asm['cubin'])
        usage, code = (
            subprocess.run(
                [programs / 'cuobjdump', option, cubin],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for option in ('-res-usage', '-sass')
        )
        registers, stack, local = (
            int(re.search(rf'{name}:(\d+)', usage)[1])
            for name in ('REG', 'STACK', 'LOCAL')
        )
        return SimpleNamespace(
            registers=registers,
            spilled=stack + local,
            shared=compiled.metadata.shared,
            wide=len(re.findall(r'LDG\.E\S*\.128', code)),
        )

    return compile_


@on_each_gpu
@pytest.mark.parametrize(
    ('dtype', 'budget'),
    [('*bf16:16', 80), pytest.param('*fp32:16', 104, marks=slow)],
)
def test_norm(compile_kernel, capability, dtype, budget):
    """No spills, few registers, and loads of 16 bytes."""
    kernels = import_module('mmhatnet.models.kernels.norm')
    arguments = {
        **dict(size='i32:16', C='i32:16', eps='fp32'),
        **dict.fromkeys(['rows', 'parts', 'tiles', 'length'], 'i32'),
        **dict.fromkeys(['x', 'grad', 'y', 'out'], dtype),
        **dict(TILE=kernels.TILE, ROWS=kernels.TILE // 64, WIDTH=64),
        'PARTS': kernels.PARTS,
    }
    for kernel in (
        *(kernels.moments_kernel, kernels.normalize_kernel),
        *(kernels.sums_kernel, kernels.gradient_kernel),
    ):
        used = compile_kernel(
            kernel, capability, kernels.WARPS, arguments, '*fp32:16'
        )
        assert used.spilled == 0
        assert used.registers <= budget
        assert used.wide >= 2


@on_each_gpu
@pytest.mark.skipif(TORCH < (2, 7), reason='needs tuples in kernels')
@pytest.mark.parametrize(
    'dtype', ['*bf16:16', pytest.param('*fp32:16', marks=slow)]
)
@pytest.mark.parametrize(('size', 'budgets'), [(3, (64, 168)), (5, (64, 254))])
def test_mlp(compile_kernel, capability, dtype, size, budgets):
    """No spills; 32, 12 and 8 warps on a multiprocessor."""
    kernels = import_module('mmhatnet.models.kernels.mlp')
    arguments = {
        **dict.fromkeys(['x', 'y', 'grad', 'out'], dtype),
        **dict.fromkeys(['weight', 'sums'], '*fp32:16'),
        **dict(C='i32:16', K=size, COLUMNS=kernels.COLUMNS),
        'WIDTH': kernels.WIDTHS[size],
    }
    both = kernels.forward_kernel, kernels.backward_kernel
    for kernel, budget in zip(both, budgets, strict=True):
        used = compile_kernel(kernel, capability, 1, arguments, 'i32')
        assert used.spilled == used.shared == 0
        assert used.registers <= budget


@on_each_gpu
@pytest.mark.parametrize(('side', 'head_dim'), [(8, 48), (7, 64)])
def test_windows(compile_kernel, capability, side, head_dim):
    """No spills; 4 programs on a multiprocessor, 2 on an A100."""
    kernels = import_module('mmhatnet.models.kernels.windows')
    arguments = {
        **dict.fromkeys(kernels.PLACE, 'i32'),
        **dict(SIDE_Y=side, SIDE_X=side, L=64, D=head_dim, DP=64),
        **dict(scale='fp32', RESIDUAL=True),
    }
    for kernel in kernels.attend_kernel, kernels.gradient_kernel:
        used = compile_kernel(kernel, capability, 4, arguments, '*bf16:16')
        assert used.spilled == 0
        assert used.registers <= (224 if capability == 80 else 128)
        assert used.wide >= 2


@pytest.fixture
def record_graphs(triton, monkeypatch):
    """Function that makes the graphs of torch.compile for an H100.

    Nothing is computed. torch compiles the kernels to see what they change.
    Returned are the numbers of operators of the forward graph, and of the
    backward graph.
    """
    from functorch.compile import (
        make_boxed_func,
        min_cut_rematerialization_partition,
    )
    from torch._dynamo.backends.common import aot_autograd
    from triton.backends.compiler import GPUTarget

    target = GPUTarget('cuda', 90, 32)
    driver = SimpleNamespace(get_current_target=lambda: target)
    monkeypatch.setattr(triton.runtime.driver, '_active', driver)
    for module in cuda, fast:
        monkeypatch.setattr(module, 'kernels_apply', lambda *_: True)
    for module in cuda, forms:
        monkeypatch.setattr(module, 'INTERPRETED', True)
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

    def compile_(function, shape, dynamic):
        x = torch.randn(shape).to(memory_format=torch.channels_last)
        backend = aot_autograd(
            fw_compiler=record,
            bw_compiler=record,
            partition_fn=min_cut_rematerialization_partition,
        )
        options = dict(backend=backend, fullgraph=True, dynamic=dynamic)
        compiled = torch.compile(function, **options)
        compiled(x.requires_grad_()).sum().backward()
        return graphs

    return compile_


@pytest.mark.parametrize('dynamic', [False, True])
def test_graphs_of_a_norm(dynamic, record_graphs, caplog):
    """Without breaks or copies, and torch sees what the kernels write."""
    graphs = record_graphs(GroupNorm1(48), (2, 48, 20, 17), dynamic)
    assert len(graphs) == 2
    for graph in graphs:
        assert graph['triton_kernel_wrapper_functional'] == 2
        assert not graph['aten.native_group_norm.default']
    assert not graphs[0]['aten.clone.default']
    assert 'identify_mutated_tensors' not in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(TORCH < (2, 8), reason='dynamic sizes need torch 2.8')
@pytest.mark.parametrize('dynamic', [False, True])
def test_graphs_of_a_block(dynamic, record_graphs):
    """One graph for all sizes; nothing is cut, masked or explicit in it."""
    norm_cfg = dict(type='GN', num_groups=1)
    attn = HMHSA(32, 2, 4, 3, norm_cfg=norm_cfg)
    mlp = MLP(32, 2, 3, norm_cfg=norm_cfg, act_cfg=dict(type='SiLU'))
    block = HATNetBlock(attn, mlp, 0.0, False)
    graphs = record_graphs(block, (2, 32, 26, 19), dynamic)
    assert len(graphs) == 2
    # Two for each of five norms, one for the windows, one for the MLP.
    for graph in graphs:
        assert graph['triton_kernel_wrapper_functional'] == 12
    names = ' '.join(graphs[0])
    assert names.count('scaled_dot_product') == 1  # to the pooled map
    assert not any(
        name in names for name in ('softmax', 'group_norm', 'masked_fill')
    )
