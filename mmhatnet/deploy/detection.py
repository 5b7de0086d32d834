"""Graphs of detectors, with the suppression of overlapping boxes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from mmengine.config import ConfigDict
from torch import Tensor, nn

from .base_graph import Graph, check_exportable


def _check_nms(cfg: ConfigDict) -> None:
    """Check that ``_best_boxes`` suppresses boxes as a config requires."""
    nms = cfg.get('nms') or {}
    known = nms.keys() - {'type', 'split_thr'} == {'iou_threshold'}
    usual = nms.get('type', 'nms') == 'nms' and known
    check_exportable(usual, f'nms={dict(nms)}')
    check_exportable(cfg.max_per_img > 0, 'a detector without max_per_img')
    check_exportable(cfg.get('nms_pre', 1) > 0, 'a detector without nms_pre')


def _check_head(head: nn.Module) -> None:
    """Check that ``_decode_level`` decodes a head as mmdet does."""
    name = type(head).__name__
    check_exportable(name in ('RetinaHead', 'RPNHead'), f'a {name}')
    check_exportable(head.use_sigmoid_cls, f'a {name} without sigmoid scores')


def _check_extractor(extractor: nn.Module) -> None:
    """Check that ``TwoStageGraph.pool`` pools as an extractor does."""
    name = type(extractor).__name__
    check_exportable(name == 'SingleRoIExtractor', f'a {name}')
    for layer in extractor.roi_layers:
        name = type(layer).__name__
        check_exportable(name == 'RoIAlign', f'a {name}')
        mode = layer.pool_mode
        check_exportable(mode == 'avg', f'pool_mode={mode}')


def _best_boxes(
    boxes: Tensor, scores: Tensor, groups: Tensor, cfg: ConfigDict
) -> Tensor:
    """Indices of the best boxes, as from mmcv's ``batched_nms``.

    Boxes (N, 4) of different groups (N,), which are classes or levels, do not
    suppress each other.
    """
    # Shift each group beyond all others, so that boxes of two groups never
    # overlap. The padded zero keeps max() defined without boxes.
    side = F.pad(boxes.flatten(), (0, 1)).max() + 1
    moved = boxes + (groups.to(boxes) * side)[:, None]
    keep = torchvision.ops.nms(moved, scores, cfg.nms.iou_threshold)
    return keep[: cfg.max_per_img]


def _decode_level(
    head: nn.Module,
    level: int,
    scores: Tensor,
    deltas: Tensor,
    most: int,
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode the best boxes of a level of an anchor-based head, for one image.

    From logits (1, anchors * classes, H, W) and deltas (1, anchors * 4, H, W)
    to boxes (most, 4), scores and classes (most,). Where the level has fewer,
    scores are negative.
    """
    priors = head.prior_generator.single_level_grid_priors(
        scores.shape[2:], level, device=scores.device
    )
    classes = head.cls_out_channels
    scores = scores[0].permute(1, 2, 0).sigmoid().flatten()
    # A constant number of boxes, whatever the size of the image.
    scores, best = F.pad(scores, (0, most), value=-1.0).topk(most)
    anchors = (best // classes).clamp(max=priors.shape[0] - 1)
    deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)[anchors]
    boxes = head.bbox_coder.decode(priors[anchors], deltas, max_shape=shape)
    return boxes, scores, best % classes


def _decode_levels(
    head: nn.Module,
    outs: tuple[Sequence[Tensor], Sequence[Tensor]],
    cfg: ConfigDict,
    shape: tuple[int, int],
    score_thr: float = -0.5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (N, 4), scores, classes and levels (N,) of all levels.

    Without small boxes, and those that only fill a level, whose scores are -1.
    """
    found = [
        _decode_level(head, i, score, delta, cfg.nms_pre, shape)
        for i, (score, delta) in enumerate(zip(*outs, strict=True))
    ]
    levels = torch.cat(
        [torch.full_like(part[2], i) for i, part in enumerate(found)]
    )
    boxes, scores, labels = map(torch.cat, zip(*found, strict=True))
    sides = boxes[:, 2:] - boxes[:, :2]
    wide = (sides > cfg.get('min_bbox_size', -1)).all(1)
    index = (wide & (scores > score_thr)).nonzero()[:, 0]
    return boxes[index], scores[index], labels[index], levels[index]


class DetectorGraph(Graph):
    """(1, 3, H, W) to boxes (K, 4) in pixels, scores (K,), labels (K,).

    For single-stage detectors with anchors, such as RetinaNet.
    """

    kind = 'detection'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        _check_head(model.bbox_head)
        _check_nms(model.test_cfg)
        no_limit = model.test_cfg.get('min_bbox_size', 0) <= 0
        check_exportable(no_limit, 'min_bbox_size')

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the boxes, best first."""
        head, cfg = self.model.bbox_head, self.model.test_cfg
        outs = head(self.extract(images))
        boxes, scores, labels, _ = _decode_levels(
            head, outs, cfg, images.shape[2:], cfg.score_thr
        )
        keep = _best_boxes(boxes, scores, labels, cfg)
        return boxes[keep], scores[keep], labels[keep]


class TwoStageGraph(Graph):
    """(1, 3, H, W) to boxes, scores, labels, and masks (K, side, side).

    For Faster R-CNN and Mask R-CNN. A mask holds probabilities inside its box.
    Both stages compute a constant number of regions, padded with empty ones:
    only the sizes of outputs may depend on the content of an image.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        _check_head(model.rpn_head)
        _check_nms(model.test_cfg.rpn)
        _check_nms(model.test_cfg.rcnn)
        head = model.roi_head
        name = type(head).__name__
        check_exportable(name == 'StandardRoIHead', f'a {name}')
        check_exportable(not head.with_shared_head, 'a shared head')
        boxes = head.bbox_head
        check_exportable(not boxes.reg_class_agnostic, 'class-agnostic boxes')
        check_exportable(not boxes.custom_cls_channels, 'a loss with channels')
        _check_extractor(head.bbox_roi_extractor)
        self.kind = 'instances' if model.with_mask else 'detection'
        if model.with_mask:
            _check_extractor(head.mask_roi_extractor)
            shared = head.mask_head.class_agnostic
            check_exportable(not shared, 'class-agnostic masks')
            usual = model.test_cfg.rcnn.mask_thr_binary == 0.5
            check_exportable(usual, 'a mask_thr_binary other than 0.5')

    def propose(
        self, features: list[Tensor], shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Compute the proposals of the RPN, (most, 4), and which are valid."""
        head, cfg = self.model.rpn_head, self.model.test_cfg.rpn
        boxes, scores, _, levels = _decode_levels(
            head, head(features), cfg, shape
        )
        keep = _best_boxes(boxes, scores, levels, cfg)
        return _take(boxes, keep, cfg.max_per_img)

    def pool(
        self, extractor: nn.Module, features: list[Tensor], boxes: Tensor
    ) -> Tensor:
        """Align regions with the maps of their levels: (K, C, side, side)."""
        rois = F.pad(boxes, (1, 0))  # all of image 0
        levels = extractor.map_roi_levels(rois, extractor.num_inputs)
        pooled = 0.0
        for level, layer in enumerate(extractor.roi_layers):
            regions = torchvision.ops.roi_align(
                features[level],
                rois,
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            chosen = (levels == level).to(regions)
            pooled = pooled + regions * chosen[:, None, None, None]
        return pooled

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the objects, best first."""
        model, shape = self.model, images.shape[2:]
        head, cfg = model.roi_head, model.test_cfg.rcnn
        features = self.extract(images)
        proposals, real = self.propose(features, shape)
        pooled = self.pool(head.bbox_roi_extractor, features, proposals)
        scores, deltas = head.bbox_head(pooled)
        scores = scores.softmax(1)[:, :-1] * real[:, None]
        classes = scores.shape[1]
        boxes = head.bbox_head.bbox_coder.decode(
            proposals, deltas, max_shape=shape
        )
        boxes, scores = boxes.reshape(-1, 4), scores.flatten()
        likely = (scores > cfg.score_thr).nonzero()[:, 0]
        boxes, scores = boxes[likely], scores[likely]
        labels = likely % classes
        keep = _best_boxes(boxes, scores, labels, cfg)
        found = boxes[keep], scores[keep], labels[keep]
        if self.kind == 'detection':
            return found
        boxes, _ = _take(boxes, keep, cfg.max_per_img)
        labels, _ = _take(labels, keep, cfg.max_per_img)
        pooled = self.pool(head.mask_roi_extractor, features, boxes)
        masks = head.mask_head(pooled).sigmoid()
        index = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return *found, masks.gather(1, index)[: keep.shape[0], 0]


def _take(values: Tensor, keep: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Take the values at ``keep``, and fill up with zeros to ``most``.

    Returns the values, (most, ...), and a mask, (most,), which is False where
    zeros were filled in.
    """
    real = torch.arange(most, device=keep.device) < keep.shape[0]
    # A last row of zeros, for the others.
    values = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
    others = torch.full_like(real, values.shape[0] - 1, dtype=keep.dtype)
    return values[torch.cat([keep, others])[:most]], real
