"""Graphs of detectors, with the suppression of overlapping boxes."""

import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from mmengine.config import ConfigDict
from torch import Tensor, nn

from .base_graph import Graph, check_exportable


def check_nms(cfg: ConfigDict) -> None:
    """Check that :func:`best_boxes` suppresses boxes as a config requires.

    Args:
        cfg (ConfigDict): The config, with ``nms`` and ``max_per_img``.

    Raises:
        ValueError: If it does not.
    """
    nms = cfg.get('nms') or {}
    check_exportable(nms.get('type', 'nms') == 'nms', f'{nms.get("type")}')
    check_exportable(not nms.get('class_agnostic'), 'class-agnostic NMS')
    check_exportable(
        'iou_threshold' in nms
        and nms.keys() <= {'type', 'iou_threshold', 'split_thr'},
        f'nms={dict(nms)}',
    )
    check_exportable(cfg.max_per_img > 0, 'a detector without max_per_img')
    check_exportable(cfg.get('nms_pre', 1) > 0, 'a detector without nms_pre')


def check_head(head: nn.Module) -> None:
    """Check that :func:`decode_level` decodes a head as mmdet does.

    Args:
        head (nn.Module): The head.

    Raises:
        ValueError: If it does not.
    """
    name = type(head).__name__
    check_exportable(name in ('RetinaHead', 'RPNHead'), f'a {name}')
    check_exportable(head.use_sigmoid_cls, f'a {name} without sigmoid scores')


def check_extractor(extractor: nn.Module) -> None:
    """Check that :meth:`TwoStageGraph.pool` pools as an extractor does.

    Args:
        extractor (nn.Module): The extractor of regions.

    Raises:
        ValueError: If it does not.
    """
    name = type(extractor).__name__
    check_exportable(name == 'SingleRoIExtractor', f'a {name}')
    for layer in extractor.roi_layers:
        name = type(layer).__name__
        check_exportable(name == 'RoIAlign', f'a {name}')
        check_exportable(
            layer.pool_mode == 'avg', f'pool_mode={layer.pool_mode}'
        )


def best_boxes(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    most: int,
) -> Tensor:
    """Non-maximum suppression inside groups, as mmcv's ``batched_nms``.

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,).
        groups (Tensor): (N,), class or level; boxes of different groups do
            not suppress each other.
        iou_threshold (float): Boxes that overlap more are suppressed.
        most (int): Number of boxes to keep.

    Returns:
        Tensor: Indices of the boxes that are kept, best first.
    """
    # Shift each group beyond all others, so that boxes of two groups never
    # overlap. The padded zero keeps max() defined without boxes.
    side = F.pad(boxes.flatten(), (0, 1)).max() + 1
    moved = boxes + (groups.to(boxes) * side)[:, None]
    return torchvision.ops.nms(moved, scores, iou_threshold)[:most]


def decode_level(
    head: nn.Module,
    level: int,
    scores: Tensor,
    deltas: Tensor,
    most: int,
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Get the best boxes of a level of an anchor-based head, for one image.

    Args:
        head (nn.Module): The head, with sigmoid scores.
        level (int): The level.
        scores (Tensor): (1, anchors * classes, H, W), logits.
        deltas (Tensor): (1, anchors * 4, H, W).
        most (int): Number of pairs of anchor and class.
        shape (tuple[int, int]): Height and width of the image in pixels.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Boxes (most, 4), scores and classes
        (most,). Where the level has fewer, scores are negative.
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


class DetectorGraph(Graph):
    """(1, 3, H, W) to boxes (K, 4) in pixels, scores (K,), labels (K,).

    For single-stage detectors with anchors, such as RetinaNet.
    """

    kind = 'detection'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        check_head(model.bbox_head)
        check_nms(model.test_cfg)
        check_exportable(
            model.test_cfg.get('min_bbox_size', 0) <= 0,
            'min_bbox_size, which counts pixels of the image before Resize,',
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the boxes, best first."""
        head, cfg = self.model.bbox_head, self.model.test_cfg
        outs = head(self.extract(images))
        found = [
            decode_level(head, i, score, delta, cfg.nms_pre, images.shape[2:])
            for i, (score, delta) in enumerate(zip(*outs, strict=True))
        ]
        boxes, scores, labels = map(torch.cat, zip(*found, strict=True))
        sides = boxes[:, 2:] - boxes[:, :2]
        wide = (sides > cfg.get('min_bbox_size', -1)).all(1)
        likely = (wide & (scores > cfg.score_thr)).nonzero()[:, 0]
        boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
        keep = best_boxes(
            boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img
        )
        return boxes[keep], scores[keep], labels[keep]


class TwoStageGraph(Graph):
    """(1, 3, H, W) to boxes, scores, labels, and masks (K, side, side).

    For Faster R-CNN and Mask R-CNN. A mask holds probabilities inside its box.
    Both stages compute a constant number of regions, the last of which are
    empty, because only the sizes of outputs may depend on the content of an
    image.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        check_head(model.rpn_head)
        check_nms(model.test_cfg.rpn)
        check_nms(model.test_cfg.rcnn)
        head = model.roi_head
        name = type(head).__name__
        check_exportable(name == 'StandardRoIHead', f'a {name}')
        check_exportable(not head.with_shared_head, 'a shared head')
        check_exportable(
            not head.bbox_head.reg_class_agnostic, 'class-agnostic boxes'
        )
        check_exportable(
            not head.bbox_head.custom_cls_channels, 'a loss with channels'
        )
        check_extractor(head.bbox_roi_extractor)
        self.kind = 'detection'
        if model.with_mask:
            self.kind = 'instances'
            check_extractor(head.mask_roi_extractor)
            check_exportable(
                not head.mask_head.class_agnostic, 'class-agnostic masks'
            )
            check_exportable(
                model.test_cfg.rcnn.mask_thr_binary == 0.5,
                'a mask_thr_binary other than 0.5',
            )

    def propose(
        self, features: list[Tensor], shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Compute the proposals of the RPN, (most, 4), and which are valid."""
        head, cfg = self.model.rpn_head, self.model.test_cfg.rpn
        found, levels = [], []
        for i, (score, delta) in enumerate(zip(*head(features), strict=True)):
            found.append(
                decode_level(head, i, score, delta, cfg.nms_pre, shape)
            )
            levels.append(torch.full_like(found[-1][2], i))
        boxes, scores, _ = map(torch.cat, zip(*found, strict=True))
        levels = torch.cat(levels)
        sides = boxes[:, 2:] - boxes[:, :2]
        smallest = cfg.get('min_bbox_size', -1)
        real = (scores >= 0) & (sides > smallest).all(1)
        real = real.nonzero()[:, 0]
        boxes, scores, levels = boxes[real], scores[real], levels[real]
        keep = best_boxes(
            boxes, scores, levels, cfg.nms.iou_threshold, cfg.max_per_img
        )
        return take(boxes, keep, cfg.max_per_img)

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
        keep = best_boxes(
            boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img
        )
        found = boxes[keep], scores[keep], labels[keep]
        if self.kind == 'detection':
            return found
        boxes, _ = take(boxes, keep, cfg.max_per_img)
        labels, _ = take(labels, keep, cfg.max_per_img)
        pooled = self.pool(head.mask_roi_extractor, features, boxes)
        masks = head.mask_head(pooled).sigmoid()
        index = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return *found, masks.gather(1, index)[: keep.shape[0], 0]


def take(values: Tensor, keep: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Take a constant number of values.

    Args:
        values (Tensor): (N, ...).
        keep (Tensor): (K,), the indices of those to take first, K <= most.
        most (int): The number.

    Returns:
        tuple[Tensor, Tensor]: Values (most, ...), and (most,), which of them
        were to be kept. The others are zero.
    """
    real = torch.arange(most, device=keep.device) < keep.shape[0]
    # A last row of zeros, for the others.
    values = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
    others = torch.full_like(real, values.shape[0] - 1, dtype=keep.dtype)
    return values[torch.cat([keep, others])[:most]], real
