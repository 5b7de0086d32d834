"""A stand-in for the compiled module ``mmcv._ext``.

The functions have its names and arguments, some of which they do not need.
Those of the forward pass write into ``output``, and those of the backward pass
into the gradients. What mmdet and mmseg need is here; CornerPool and
CrissCrossAttention are plain torch in mmcv, too.
"""

from collections.abc import Callable
from typing import NoReturn

import torch

# Absolute, since Python runs this file as a part of mmcv.
try:
    import torchvision
except ModuleNotFoundError as error:
    # An error that mmsegmentation expects where operators are missing.
    raise ModuleNotFoundError(
        "detectors need torchvision, or mmcv's compiled operators: install "
        'the torchvision of your torch, see https://pytorch.org',
        name='torchvision',
    ) from error

from mmhatnet.operators.boxes import (  # noqa: F401
    nms,
    nms_match,
    softnms,
)
from mmhatnet.operators.common import raise_missing
from mmhatnet.operators.convolutions import (  # noqa: F401
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmhatnet.operators.gathering import (  # noqa: F401
    carafe_backward,
    carafe_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
    psamask_backward,
    psamask_forward,
)
from mmhatnet.operators.losses import (  # noqa: F401
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmhatnet.operators.regions import (  # noqa: F401
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)


def get_compiler_version() -> str:
    """Say which compiler built the operators."""
    return f'none (operators of torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Say for which CUDA they were built, as in mmcv."""
    return torch.version.cuda or 'not available'


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Stand in for the other operators, which mmcv.ops looks up on import."""
    if name.startswith('_'):
        raise AttributeError(name)

    return lambda *args, **kwargs: raise_missing(name)
