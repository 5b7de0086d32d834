"""What an exported file computes: a model of any task, as one graph.

The input is a batch of images, (N, 3, H, W), with values from 0 to 255 in the
order of channels that the metadata name. Normalization, padding and
postprocessing are inside, so that a file is right at every size.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..models import HATNet
from .base import Graph, refuse_if, replace_modules
from .detection import DetectorGraph, TwoStageGraph

# The names of the outputs, in order, by the kind of result.
OUTPUTS = dict(
    classification=('scores',),
    segmentation=('labels', 'logits'),
    detection=('boxes', 'scores', 'labels'),
    instances=('boxes', 'scores', 'labels', 'masks'),
)


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
        features = self.extract(images)
        logits = F.interpolate(
            self.model.decode_head(features),
            size=images.shape[2:],
            mode='bilinear',
            align_corners=False,
        )
        return logits.argmax(1), logits


def make_graph(model: nn.Module) -> Graph:
    """Make the graph of a model.

    Args:
        model (nn.Module): A classifier of mmpretrain, a segmentor of mmseg or
            a detector of mmdet, as from :func:`mmhatnet.get_model`.

    Returns:
        Graph: The graph, in eval mode. The model is changed, so that its
        pooling and upsampling are right at every size.

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
    elif type(model).__name__ in ('FasterRCNN', 'MaskRCNN'):
        graph = TwoStageGraph
    else:
        raise ValueError(
            f'a {type(model).__name__} cannot be exported: only classifiers, '
            'EncoderDecoder, RetinaNet, FasterRCNN and MaskRCNN can'
        )
    replace_modules(model)
    return graph(model).eval()
