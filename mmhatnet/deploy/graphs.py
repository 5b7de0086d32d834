"""What an exported file computes: a model of any task, as one graph.

The input is a batch of images, (N, 3, H, W), with values from 0 to 255 in the
order of channels that the metadata name. Normalization, padding and
postprocessing are inside, so that a file is right at every size.
"""

import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import Tensor, nn

from ..models import HATNet

# The names of the outputs, in order, by the kind of result.
OUTPUTS = dict(
    classification=('scores',),
    segmentation=('labels', 'logits'),
    detection=('boxes', 'scores', 'labels'),
)


def refuse_if(condition: object, what: str) -> None:
    """Refuse what a graph would compute in another way than mm.

    Args:
        condition (object): Whether the model has it.
        what (str): What it is.

    Raises:
        ValueError: If the condition is true.
    """
    if condition:
        raise ValueError(f'{what} cannot be exported')


def check_nms(cfg: dict) -> None:
    """Check that :func:`best_boxes` suppresses boxes as a config asks.

    Args:
        cfg (dict): The config, with ``nms``.

    Raises:
        ValueError: If it asks for something else.
    """
    refuse_if(cfg.nms.get('type', 'nms') != 'nms', f'{cfg.nms.get("type")}')
    refuse_if(cfg.nms.get('class_agnostic'), 'class-agnostic NMS')


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
        mean = getattr(preprocessor, 'mean', torch.zeros(3, 1, 1))
        std = getattr(preprocessor, 'std', torch.ones(3, 1, 1))
        self.register_buffer('mean', mean.clone())
        self.register_buffer('std', std.clone())
        self.divisor = getattr(preprocessor, 'pad_size_divisor', 1)
        refuse_if(
            self.divisor > 1 and getattr(preprocessor, 'pad_value', 0),
            'a pad_value other than 0',
        )

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

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        name = type(model.head).__name__
        refuse_if('MultiLabel' in name or 'MultiTask' in name, f'a {name}')

    def forward(self, images: Tensor) -> Tensor:
        """Compute the scores."""
        features = self.model.extract_feat(self.prepare(images))
        return self.model.head(features).softmax(1)


class SegmentorGraph(Graph):
    """(N, 3, H, W) to labels (N, H, W) and logits (N, classes, H, W)."""

    kind = 'segmentation'

    def __init__(self, model: nn.Module) -> None:
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        super().__init__(model)
        head = model.decode_head
        refuse_if(
            not isinstance(head, BaseDecodeHead), f'a {type(head).__name__}'
        )
        refuse_if(head.out_channels == 1, 'a head with one channel')
        refuse_if(head.align_corners, 'a head with align_corners=True')
        refuse_if(model.test_cfg.mode != 'whole', 'testing by sliding windows')
        refuse_if(
            getattr(model.data_preprocessor, 'test_cfg', None),
            'a data_preprocessor.test_cfg',
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute labels and logits at the size of the images."""
        features = self.model.extract_feat(self.prepare(images))
        logits = F.interpolate(
            self.model.decode_head(features),
            size=images.shape[2:],
            mode='bilinear',
            align_corners=False,
        )
        return logits.argmax(1), logits


def best_boxes(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    iou_threshold: float,
    most: int,
) -> Tensor:
    """Non-maximum suppression inside classes, as mmcv's ``batched_nms``.

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,).
        classes (Tensor): (N,); boxes of different classes do not suppress
            each other.
        iou_threshold (float): Boxes that overlap more are suppressed.
        most (int): Number of boxes to keep.

    Returns:
        Tensor: Indices of the boxes that are kept, best first.
    """
    # Shift each class beyond all others, so that boxes of two classes never
    # overlap. The padded zero keeps max() defined without boxes.
    side = F.pad(boxes.flatten(), (0, 1)).max() + 1
    moved = boxes + (classes.to(boxes) * side)[:, None]
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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the boxes, best first."""
        head, cfg = self.model.bbox_head, self.model.test_cfg
        outs = head(self.model.extract_feat(self.prepare(images)))
        found = [
            decode_level(head, i, *level, cfg.nms_pre, images.shape[2:])
            for i, level in enumerate(zip(*outs, strict=True))
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


def check_head(head: nn.Module) -> None:
    """Check that :func:`decode_level` decodes a head as mmdet does.

    Args:
        head (nn.Module): The head.

    Raises:
        ValueError: If it does not.
    """
    name = type(head).__name__
    refuse_if(name != 'RetinaHead', f'a {name}')
    refuse_if(not head.use_sigmoid_cls, f'a {name} without sigmoid scores')


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
    backbone = model.backbone
    refuse_if(not isinstance(backbone, HATNet), f'a {type(backbone).__name__}')
    refuse_if(backbone.stem[0].in_channels != 3, 'a model of other channels')
    scope = model.cfg.default_scope
    if scope == 'mmpretrain':
        graph = ClassifierGraph
    elif scope == 'mmseg' and type(model).__name__ == 'EncoderDecoder':
        graph = SegmentorGraph
    elif scope == 'mmdet' and type(model).__name__ == 'RetinaNet':
        graph = DetectorGraph
    else:
        raise ValueError(
            f'a {type(model).__name__} cannot be exported: only classifiers, '
            'EncoderDecoder and RetinaNet can'
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
