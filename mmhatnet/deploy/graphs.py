"""What an exported file computes: a model of any task, as one graph.

The input is a batch of images, (N, 3, H, W), with values from 0 to 255 in the
order of channels that the metadata name. Normalization, padding and
postprocessing are inside, so that a file is correct at every size.
"""

import copy
from importlib import import_module

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..models import HATNet
from .base_graph import Graph, check_exportable, replace_modules
from .detection import DetectorGraph, TwoStageGraph
from .verification import TOLERANCES, as_arrays, compare

# The library of a kind of graph, and its class for the data of an image.
LIBRARIES = dict(
    classification=('mmpretrain', 'DataSample'),
    segmentation=('mmseg', 'SegDataSample'),
    detection=('mmdet', 'DetDataSample'),
    instances=('mmdet', 'DetDataSample'),
)


class ClassifierGraph(Graph):
    """(N, 3, H, W) to the scores of the classes, (N, classes)."""

    kind = 'classification'

    def __init__(self, model: nn.Module) -> None:
        from mmpretrain.models.heads import ClsHead

        super().__init__(model)
        head = type(model.head)
        usual = (
            getattr(head, 'predict', None) is ClsHead.predict
            and head._get_predictions is ClsHead._get_predictions
        )
        check_exportable(usual, f'a {head.__name__}')

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
        self.divisor = 1  # mmseg pads in training alone
        head = model.decode_head
        predict = getattr(type(head), 'predict', None)
        usual = predict is BaseDecodeHead.predict
        check_exportable(usual, f'a {type(head).__name__}')
        test_cfg = getattr(model.data_preprocessor, 'test_cfg', None)
        for lacking, name in (
            (head.out_channels == 1, 'a head with one channel'),
            (head.align_corners, 'a head with align_corners=True'),
            (model.test_cfg.mode != 'whole', 'testing by sliding windows'),
            (test_cfg, 'a data_preprocessor.test_cfg'),
        ):
            check_exportable(not lacking, name)

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


GRAPHS = dict(
    ImageClassifier=ClassifierGraph,
    EncoderDecoder=SegmentorGraph,
    RetinaNet=DetectorGraph,
    FasterRCNN=TwoStageGraph,
    MaskRCNN=TwoStageGraph,
)


def make_graph(model: nn.Module) -> Graph:
    """Make the graph of a model, and compare their results.

    Args:
        model (nn.Module): A model of mm, as from :func:`mmhatnet.get_model`.

    Returns:
        Graph: The graph, in eval mode, with a copy of the model.

    Raises:
        ValueError: If the model cannot be exported. The message says why.
    """
    name = type(model).__name__
    if name not in GRAPHS:
        raise ValueError(
            f'a {name} cannot be exported: only {", ".join(GRAPHS)} can'
        )
    backbone = model.backbone
    ours = isinstance(backbone, HATNet)
    check_exportable(ours, f'a {type(backbone).__name__}')
    channels = backbone.stem[0].in_channels
    check_exportable(channels == 3, 'a model of other channels')
    copied = copy.deepcopy(model)
    replace_modules(copied)
    graph = GRAPHS[name](copied).eval()
    check_graph(graph, model)
    return graph


@torch.no_grad()
def check_graph(graph: Graph, model: nn.Module) -> None:
    """Compare a graph with its model, on a random image of an odd size.

    Raises:
        ValueError: If the results differ.
    """
    random = np.random.default_rng(0)
    image = torch.from_numpy(random.integers(0, 256, (3, 101, 77), np.uint8))
    ordered = image.flip(0) if graph.rgb else image
    found = as_arrays(graph)(ordered[None].float().numpy())
    outputs = _predict_in_mm(graph.kind, model, image)
    expected = [each.numpy() for each in outputs]
    # Without masks, which are not pasted into the image yet.
    error = compare(graph.kind, found[:3], expected)['error']
    if not error <= TOLERANCES['float32']:
        raise ValueError(
            f'a {type(model).__name__} with a feature that the exported file '
            f'would not have (a difference of {error:.1e}) cannot be exported'
        )


def _predict_in_mm(
    kind: str, model: nn.Module, image: Tensor
) -> tuple[Tensor, ...]:
    """The outputs of a graph, without masks, by mm, for a BGR image."""
    shape = tuple(image.shape[1:])
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    library, name = LIBRARIES[kind]
    sample = getattr(import_module(f'{library}.structures'), name)
    data = dict(inputs=[image], data_samples=[sample(metainfo=meta)])
    (found,) = model.test_step(data)
    if kind == 'classification':
        return (found.pred_score[None],)
    if kind == 'segmentation':
        return found.pred_sem_seg.data, found.seg_logits.data[None]
    objects = found.pred_instances
    return objects.bboxes, objects.scores, objects.labels
