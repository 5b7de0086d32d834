"""Count the parameters and operations of a model of any task."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import prod
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..models import HATNet
from ..models.archs import Grids

aten = torch.ops.aten

PRODUCTS = (aten.bmm, aten.baddbmm)

# Operations per element, as fvcore and mmengine count them. In inference, a
# batch norm is one multiplication and one addition.
NORMS = {
    aten.native_group_norm: 5,
    aten.native_layer_norm: 5,
    aten.native_batch_norm: 2,
}


@dataclass(frozen=True)
class Complexity:
    """The cost of a model for one image.

    Attributes:
        params (int): Number of parameters.
        operations (int): Multiply-accumulates of all convolutions, linear
            layers and matrix products: the papers' #FLOPs. Activations,
            pooling and the sampling of features are not counted.
        products (int): The part of ``operations`` that multiplies two
            activations, as attention does.
        norms (int): Operations of the norms, in addition to ``operations``:
            5 per element of a layer or group norm and 2 per element of a
            batch norm, as in fvcore and mmengine.
    """

    params: int
    operations: int
    products: int
    norms: int

    @property
    def without_products(self) -> int:
        """Operations and norms without products, as in Table 2 of HAT-Net."""
        return self.operations - self.products + self.norms


class _NumbersOnCPU(TorchFunctionMode):
    """Make ``torch.linspace`` on the CPU, whatever the default device is.

    Most backbones compute their drop path rates with it and read them as
    numbers, which tensors on the meta device do not have.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault('device', 'cpu')
        return func(*args, **kwargs)


def build_on_meta(cfg: Config, plain: bool = True) -> nn.Module:
    """Build a config's model with shapes and without values.

    This takes almost no memory and a fraction of the time, because no weight
    is initialized.

    Args:
        cfg (Config): As for :func:`measure_complexity`.
        plain (bool): Build a HATNet with ``fast=False``, the equations of the
            paper, instead of what the config says. Its fast form also
            projects the padding of windows. Defaults to True.

    Returns:
        nn.Module: The model on torch's meta device, in evaluation mode.
    """
    settings = deepcopy(cfg.model)
    backbone = settings.get('backbone', settings)
    with (
        DefaultScope.overwrite_default_scope(cfg.get('default_scope')),
        torch.device('meta'),
        _NumbersOnCPU(),
    ):
        if plain and _is_hatnet(backbone.type):
            backbone.fast = False
        model = MODELS.build(settings)
    model.eval()  # some backbones return None here
    return model.to('meta')  # tensors that came from numpy


def _is_hatnet(kind: str | Callable) -> bool:
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, HATNet)


def image_channels(cfg: Config) -> int:
    """Get the channels of images of a config with a model or a backbone."""
    return cfg.model.get('backbone', cfg.model).get('in_channels', 3)


def measure_complexity(cfg: Config, shape: Sequence[int]) -> Complexity:
    """Count the parameters and operations of a config's model.

    The model runs on torch's meta device, so nothing is computed. There, fused
    attention is split into the two products that it consists of; torch's
    counter does not know the fused operator of every device. Two-stage
    detectors are counted with the maximum of proposals and masks that their
    test config allows.

    Args:
        cfg (Config): The config, for mmpretrain, mmsegmentation or mmdet; its
            ``model`` may also be a backbone.
        shape (Sequence[int]): Height and width of the image in pixels.

    Returns:
        Complexity: The counts for one image.

    Raises:
        ValueError: If the model computes nothing from an image alone, as
            DETR and its variants, which read sizes from tensors, and CondInst
            and PointRend, whose masks depend on the detected objects.
    """
    model = build_on_meta(cfg)
    params = sum(parameter.numel() for parameter in model.parameters())
    image = torch.empty(1, image_channels(cfg), *shape, device='meta')
    try:
        counts = _count_model(model, image)
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(
            f'the operations of {type(model).__name__} cannot be counted from '
            f'the size of an image alone ({error!r:.99}): count its backbone'
        ) from error
    return Complexity(params, *counts)


def count_operations(cfg: Config, grids: Grids, shape: Sequence[int]) -> int:
    """Count the operations of a config's model with a G1 and a G2.

    Config and shape are those of :func:`measure_complexity`.
    """
    cfg = deepcopy(cfg)
    g1, g2 = grids
    cfg.model.backbone.update(grid_sizes=g1, ds_ratios=g2)
    return measure_complexity(cfg, shape).operations


def _count_model(model: nn.Module, image: Tensor) -> tuple[int, ...]:
    if hasattr(getattr(model, 'rpn_head', None), 'prior_generator'):
        return _count_two_stages(model, image)
    if hasattr(model, 'decode_head'):
        return _count(lambda: _segment(model, image))
    mode = dict(mode='tensor') if isinstance(model, BaseModel) else {}
    return _count(lambda: model(image, **mode))


def _count(forward: Callable[[], object]) -> tuple[int, int, int]:
    """Count (operations, products, norms) of a forward pass."""
    norms = {name: partial(_norm, each) for name, each in NORMS.items()}
    # Some operators are decomposed before they are counted, unless their
    # default overload is registered as well.
    norms.update({name.default: count for name, count in norms.items()})
    counter = FlopCounterMode(display=False, custom_mapping=norms)
    with torch.no_grad(), counter:
        forward()
    counts = counter.get_flop_counts().get('Global', {})
    products = sum(counts.get(operator, 0) for operator in PRODUCTS)
    norms = sum(counts.get(operator, 0) for operator in NORMS)
    # A multiply-accumulate is two floating point operations.
    return (counter.get_total_flops() - norms) // 2, products // 2, norms


def _norm(each: int, x: Tensor | Sequence[int], *_: Any, **__: Any) -> int:
    # Some releases of torch pass the tensor, others its shape.
    return each * prod(getattr(x, 'shape', x))


def _segment(model: nn.Module, image: Tensor) -> object:
    from mmseg.structures import SegDataSample

    features = model.extract_feat(image)
    head = model.decode_head
    if 'batch_data_samples' not in signature(head.forward).parameters:
        return head.forward(features)
    # Mask2Former's head reads sizes from tensors, so it needs values. With
    # gradients enabled, torch splits its fused multi-head attention.
    head.to_empty(device='cpu')
    features = [torch.zeros(feature.shape) for feature in features]
    size = tuple(image.shape[-2:])
    sample = SegDataSample(
        metainfo=dict(img_shape=size, ori_shape=size, batch_input_shape=size)
    )
    with torch.enable_grad():
        return head.forward(features, [sample])


def _count_two_stages(model: nn.Module, image: Tensor) -> tuple[int, ...]:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    head = model.roi_head
    for module in head.modules():
        if hasattr(module, 'roi_layers'):
            _skip_sampling(module)
    sample = DetDataSample(metainfo=dict(img_shape=tuple(image.shape[-2:])))
    features = []

    def first() -> None:
        features.extend(model.extract_feat(image))
        model.rpn_head(features)
        if hasattr(model, 'semantic_head'):  # Panoptic FPN
            model.semantic_head(features)

    def second(proposals: int) -> tuple[int, int, int]:
        boxes = InstanceData(bboxes=image.new_empty(proposals, 4))
        return _count(lambda: head(features, [boxes], [sample]))

    proposals = model.test_cfg.rpn.max_per_img
    objects = model.test_cfg.rcnn.max_per_img
    parts: list[Sequence[int]] = [_count(first)]
    if head.with_mask:
        # In this mode, cascades compute a mask for every proposal; in
        # prediction only for the detected objects.
        with_masks = second(objects)
        head.mask_head = None
        without = second(objects)
        parts.append([a - b for a, b in zip(with_masks, without, strict=True)])
    parts.append(second(proposals))
    return tuple(map(sum, zip(*parts, strict=True)))


def _skip_sampling(extractor: nn.Module) -> None:
    """Replace mmcv's RoIAlign, which does not run on the meta device."""

    def forward(
        features: Sequence[Tensor], rois: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        size = extractor.roi_layers[0].output_size
        return rois.new_empty(len(rois), extractor.out_channels, *size)

    extractor.forward = forward
