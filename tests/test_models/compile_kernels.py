"""Compiles Triton kernels for GPUs that are not there."""

import re
import subprocess
from pathlib import Path

import pytest
from helpers import INTERPRETED

# Of A100, H100 and B200.
CAPABILITIES = 80, 90, 100


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
