"""Triton kernels that stand in for several operators of torch on a GPU.

Each file has the kernels of one operation, :class:`torch.autograd.Function`
around them, and its plain twin. ``fast.py`` computes what they do not.
"""

from .choice import VARIABLE, is_chosen, kernels_apply, select_kernels

__all__ = ['VARIABLE', 'is_chosen', 'kernels_apply', 'select_kernels']
