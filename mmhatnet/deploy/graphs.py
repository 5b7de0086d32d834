"""What an exported file computes: a model of any task, as one graph.

The input is a batch of images, (N, 3, H, W), with values from 0 to 255 in the
order of channels that the metadata name. Normalization, padding and
postprocessing are inside, so that a file is right at every size.
"""

import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

# The names of the outputs, in order, by the kind of result.
OUTPUTS = dict(
    classification=('scores',),
    segmentation=('labels', 'logits'),
    detection=('boxes', 'scores', 'labels'),
    instances=('boxes', 'scores', 'labels', 'masks'),
)


class Graph(nn.Module):
    """The base of the graphs: normalization and padding.

    Args:
        model (nn.Module): The model of mm, in eval mode.

    Raises:
        ValueError: If the model cannot be exported.
    """

    kind: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        preprocessor = model.data_preprocessor
        if not isinstance(preprocessor, ImgDataPreprocessor):
            # mmpretrain's is another class, with the same attributes.
            preprocessor = getattr(preprocessor, 'module', preprocessor)
        mean = getattr(preprocessor, 'mean', None)
        std = getattr(preprocessor, 'std', None)
        self.register_buffer('mean', torch.zeros(3, 1, 1))
        self.register_buffer('std', torch.ones(3, 1, 1))
        if mean is not None:
            self.mean.copy_(mean)
            self.std.copy_(std)
        self.divisor = int(getattr(preprocessor, 'pad_size_divisor', 1) or 1)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalize, then pad at the right and the bottom, as mm does."""
        images = (images - self.mean) / self.std
        if self.divisor > 1:
            h, w = images.shape[2:]
            images = F.pad(
                images, (0, -w % self.divisor, 0, -h % self.divisor)
            )
        return images


class ClassifierGraph(Graph):
    """(N, 3, H, W) to the scores of the classes, (N, classes)."""

    kind = 'classification'

    def forward(self, images: Tensor) -> Tensor:
        """Compute the scores."""
        features = self.model.extract_feat(self.prepare(images))
        return self.model.head(features).softmax(1)


class SegmentorGraph(Graph):
    """(N, 3, H, W) to labels (N, H, W) and logits (N, classes, H, W)."""

    kind = 'segmentation'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if model.decode_head.out_channels == 1:
            raise ValueError('a head with one channel cannot be exported')
        self.divisor = 1  # mmseg pads in training only

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute labels and logits at the size of the images."""
        features = self.model.extract_feat(self.prepare(images))
        logits = F.interpolate(
            self.model.decode_head(features),
            size=images.shape[2:],
            mode='bilinear',
            align_corners=self.model.align_corners,
        )
        return logits.argmax(1), logits


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
    # Moves the groups apart; a zero, as there may be no box.
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
    anchors = (best // classes).clamp(max=len(priors) - 1)
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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the boxes, best first."""
        head, cfg = self.model.bbox_head, self.model.test_cfg
        outs = head(self.model.extract_feat(self.prepare(images)))
        found = [
            decode_level(head, i, *level, cfg.nms_pre, images.shape[2:])
            for i, level in enumerate(zip(*outs, strict=True))
        ]
        boxes, scores, labels = map(torch.cat, zip(*found, strict=True))
        likely = (scores > cfg.score_thr).nonzero()[:, 0]
        boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
        keep = best_boxes(
            boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img
        )
        return boxes[keep], scores[keep], labels[keep]


class TwoStageGraph(Graph):
    """(1, 3, H, W) to boxes, scores, labels, and masks (K, 28, 28).

    For Faster R-CNN and Mask R-CNN. A mask holds probabilities inside its box.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        check_head(model.rpn_head)
        if not hasattr(model.roi_head.bbox_head, 'fc_cls'):
            raise ValueError('a cascade of heads cannot be exported')
        self.kind = 'instances' if model.with_mask else 'detection'

    def propose(
        self, features: tuple[Tensor, ...], shape: tuple[int, int]
    ) -> Tensor:
        """Compute the proposals of the RPN, (K, 4)."""
        head, cfg = self.model.rpn_head, self.model.test_cfg.rpn
        found, levels = [], []
        for i, level in enumerate(zip(*head(features), strict=True)):
            found.append(decode_level(head, i, *level, cfg.nms_pre, shape))
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
        return boxes[keep]

    def pool(
        self, extractor: nn.Module, features: tuple[Tensor, ...], boxes: Tensor
    ) -> Tensor:
        """Align regions with the maps of their levels: (K, C, side, side)."""
        rois = F.pad(boxes, (1, 0))  # all of image 0
        levels = extractor.map_roi_levels(rois, extractor.num_inputs)
        pooled = []
        for level, layer in enumerate(extractor.roi_layers):
            regions = torchvision.ops.roi_align(
                features[level],
                rois,
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio or -1,
                layer.aligned,
            )
            chosen = (levels == level).to(regions)
            pooled.append(regions * chosen[:, None, None, None])
        return torch.stack(pooled).sum(0)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the objects, best first."""
        model, shape = self.model, images.shape[2:]
        head, cfg = model.roi_head, model.test_cfg.rcnn
        features = model.extract_feat(self.prepare(images))
        proposals = self.propose(features, shape)
        pooled = self.pool(head.bbox_roi_extractor, features, proposals)
        scores, deltas = head.bbox_head(pooled)
        scores = scores.softmax(1)[:, :-1]
        classes = scores.shape[1]
        boxes = head.bbox_head.bbox_coder.decode(
            proposals, deltas, max_shape=shape
        ).reshape(-1, 4)
        scores = scores.flatten()
        likely = (scores > cfg.score_thr).nonzero()[:, 0]
        boxes, scores = boxes[likely], scores[likely]
        labels = likely % classes
        keep = best_boxes(
            boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img
        )
        found = boxes[keep], scores[keep], labels[keep]
        if self.kind == 'detection':
            return found
        pooled = self.pool(head.mask_roi_extractor, features, found[0])
        masks = head.mask_head(pooled).sigmoid()
        index = found[2][:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return *found, masks.gather(1, index)[:, 0]


def check_head(head: nn.Module) -> None:
    """Check that :func:`decode_level` decodes a head as mmdet does.

    Args:
        head (nn.Module): The head.

    Raises:
        ValueError: If it does not.
    """
    known = ('RetinaHead', 'RPNHead')
    if type(head).__name__ not in known or not head.use_sigmoid_cls:
        raise ValueError(
            f'a {type(head).__name__} cannot be exported: only '
            f'{" and ".join(known)} with sigmoid scores can'
        )


def make_graph(model: nn.Module) -> Graph:
    """Make the graph of a model.

    Args:
        model (nn.Module): A classifier of mmpretrain, a segmentor of mmseg or
            a detector of mmdet, as from :func:`mmhatnet.get_model`.

    Returns:
        Graph: The graph, in eval mode. The model is changed, so that its
        upsampling is right at every size.

    Raises:
        ValueError: If the model cannot be exported. The message says why.
    """
    scope = model.cfg.default_scope
    if scope == 'mmpretrain':
        graph = ClassifierGraph
    elif scope == 'mmseg' and type(model).__name__ == 'EncoderDecoder':
        graph = SegmentorGraph
    elif scope == 'mmdet' and type(model).__name__ == 'RetinaNet':
        graph = DetectorGraph
    elif type(model).__name__ in ('FasterRCNN', 'MaskRCNN'):
        graph = TwoStageGraph
    else:
        raise ValueError(
            f'a {type(model).__name__} cannot be exported: only classifiers, '
            'EncoderDecoder, RetinaNet, FasterRCNN and MaskRCNN can'
        )
    replace_upsampling(model)
    return graph(model).eval()


def replace_upsampling(model: nn.Module) -> None:
    """Replace mmseg's ``Upsample``, which fixes the size in a graph.

    Args:
        model (nn.Module): The model; changed in place.
    """
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child).__name__ == 'Upsample' and hasattr(child, 'size'):
                factor = child.scale_factor
                if child.size is None and factor == int(factor):
                    new = nn.Upsample(
                        scale_factor=int(factor),
                        mode=child.mode,
                        align_corners=child.align_corners,
                    )
                    setattr(parent, name, new)
