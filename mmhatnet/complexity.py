"""Counting of parameters and operations, for the models of every task."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """What a model costs for one image.

    Attributes:
        params (int): Number of parameters.
        operations (int): Multiply-accumulates of all convolutions, linear
            layers and matrix products, as the papers' #FLOPs are. Norms,
            activations, pooling and the sampling of features are not counted.
        products (int): How many of the operations are products of two
            activations, which attention consists of and Table 2 of the paper
            leaves out.
    """

    params: int
    operations: int
    products: int


def measure(cfg: Config, shape: Sequence[int]) -> Complexity:
    """Count the parameters and operations of a config's model.

    Nothing is computed: the tensors are on torch's meta device, which has
    shapes and no values. So fused attention, which torch's counter does not
    know on every device, is counted as the products that it consists of.

    A detector in two stages classifies as many proposals as its test config
    admits, and makes masks for as many objects as it may return.

    Args:
        cfg (Config): The config, for mmpretrain, mmsegmentation or mmdet.
        shape (Sequence[int]): Height and width of the image in pixels.

    Returns:
        Complexity: What was counted.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(deepcopy(cfg.model)).eval()
    params = sum(parameter.numel() for parameter in model.parameters())
    model.to('meta')
    image = torch.empty(1, 3, *shape, device='meta')
    if hasattr(model, 'roi_head'):
        counts = _count_two_stages(model, image)
    elif hasattr(model, 'decode_head'):
        counts = _count(lambda: _segment(model, image))
    else:
        counts = _count(lambda: model(image, mode='tensor'))
    return Complexity(params, *counts)


def _count(forward: Callable[[], object]) -> tuple[int, int]:
    """(operations, products) of a forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    flops = counter.get_flop_counts().get('Global', {})
    products = sum(
        flops.get(operator, 0)
        for operator in (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
    )
    # A multiply-accumulate is two floating point operations.
    return counter.get_total_flops() // 2, products // 2


def _segment(model: nn.Module, image: Tensor) -> object:
    from mmseg.structures import SegDataSample

    features = model.extract_feat(image)
    head = model.decode_head
    if 'batch_data_samples' not in signature(head.forward).parameters:
        return head.forward(features)
    # Mask2Former's head computes sizes from tensors, which need values. With
    # gradients, torch does without its fused multi-head attention.
    head.to_empty(device='cpu')
    features = [torch.zeros(feature.shape) for feature in features]
    size = tuple(image.shape[-2:])
    sample = SegDataSample(
        metainfo=dict(img_shape=size, ori_shape=size, batch_input_shape=size)
    )
    with torch.enable_grad():
        return head.forward(features, [sample])


def _count_two_stages(model: nn.Module, image: Tensor) -> tuple[int, int]:
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

    def second(proposals: int) -> tuple[int, int]:
        boxes = InstanceData(bboxes=image.new_empty(proposals, 4))
        return _count(lambda: head(features, [boxes], [sample]))

    proposals = model.test_cfg.rpn.max_per_img
    objects = model.test_cfg.rcnn.max_per_img
    parts = [_count(first)]
    if head.with_mask:
        # Cascades make masks of all proposals here, unlike when they predict.
        with_masks = second(objects)
        head.mask_head = None
        without = second(objects)
        parts.append([a - b for a, b in zip(with_masks, without, strict=True)])
    parts.append(second(proposals))
    return tuple(map(sum, zip(*parts, strict=True)))


def _skip_sampling(extractor: nn.Module) -> None:
    """Leave out mmcv's RoIAlign, which does not run on the meta device."""

    def forward(features: Sequence[Tensor], rois: Tensor, *_, **__) -> Tensor:
        size = extractor.roi_layers[0].output_size
        return rois.new_empty(len(rois), extractor.out_channels, *size)

    extractor.forward = forward
