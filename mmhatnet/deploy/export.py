"""Export models for any size of image, and describe them.

``tools/deployment/export.py`` is a command over this module.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..apis.zoo import find_test_dataset
from ..models.archs import as_integers
from ..runtime.arrays import SMALLEST
from ..runtime.grids import INPUTS
from ..runtime.metadata import LARGEST, OUTPUTS, has_batches
from ..utils.hashes import sha256_of
from ..utils.stack import describe_versions
from ..weights.releases import locate_weights
from .base_graph import Graph, check_exportable

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MOST = 256  # images of a batch
# Number, height and width of the images of the example. The program does not
# depend on them, but AOTInductor assumes that sizes that are equal in the
# example, such as one window and one image, are always equal. Here, none are
# equal.
EXAMPLE = (7, 353, 613)
EXAMPLE_GRIDS = (9, 6, 5, 10, 7, 3)  # G1 and G2, where they are inputs


class FreeGrids(nn.Module):
    """A graph whose G1 and G2 are the lengths of more inputs."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.inner = graph  # a program has a graph of its own

    def forward(self, images: Tensor, lengths: list[Tensor]) -> Any:
        """Compute the outputs of the graph; ``lengths`` are as INPUTS."""
        grids = [each.shape[0] for each in lengths]
        half = len(grids) // 2
        self.inner.model.backbone.assign_grids(grids[:half], grids[half:])
        return self.inner(images)


def export_program(
    graph: Graph, free_grids: bool = False
) -> 'ExportedProgram':
    """Export a graph for images of any legal size.

    N is dynamic, too, unless the graph is that of a detector, which takes one
    image.

    Args:
        graph (Graph): The graph.
        free_grids (bool): Make G1 and G2 inputs of the program. Defaults to
            False.

    Raises:
        ImportError: If torch is older than 2.8.
        ValueError: If G1 and G2 cannot be inputs of this graph.
    """
    backbone = graph.model.backbone
    configured = backbone.grid_sizes, backbone.ds_ratios
    dim = torch.export.Dim
    inputs: list[Any] = []
    shapes: list[Any] = []
    if free_grids:
        numbers = as_integers(backbone.ds_ratios)
        check_exportable(numbers, "G2 'auto', if it is an input,")
        shifted = any(getattr(x, 'shifted', False) for x in graph.modules())
        check_exportable(not shifted, 'shifted windows whose G1 is an input')
        inputs = [[torch.zeros(length) for length in EXAMPLE_GRIDS]]
        shapes = [[{0: dim(x, min=1, max=LARGEST)} for x in INPUTS]]
    with torch.no_grad(), sizes_of_one():
        dims = {
            0: dim('batch', min=1, max=MOST),
            2: dim('height', min=SMALLEST, max=LARGEST),
            3: dim('width', min=SMALLEST, max=LARGEST),
        }
        count, *sides = EXAMPLE
        if not has_batches(graph.kind):
            count = 1
            del dims[0]
        try:
            return torch.export.export(
                FreeGrids(graph) if free_grids else graph,
                (torch.zeros(count, 3, *sides), *inputs),
                dynamic_shapes=(dims, *shapes),
                strict=False,
            )
        finally:
            backbone.set_grids(*configured)


@contextmanager
def sizes_of_one() -> Iterator[None]:
    """Let torch.export assume nothing about sizes of 1; needs torch 2.8.

    A map of a 32x32 image has one row, and a batch may have one image.
    """
    from torch.fx.experimental import _config

    if not hasattr(_config, 'backed_size_oblivious'):
        raise ImportError(
            f'torch {torch.__version__} cannot export graphs of dynamic '
            'size: install 2.8 or newer'
        )
    with _config.patch(backed_size_oblivious=True):
        yield


def describe(
    graph: Graph,
    cfg: Config,
    checkpoint: str | None = None,
    precision: str = 'float32',
) -> dict:
    """Describe an exported model by its metadata, ready for JSON.

    Checkpoint and precision are as for ``export_files``.

    Raises:
        ValueError: If the test pipeline has an unknown step.
    """
    model = graph.model
    meta = model.dataset_meta
    classes, palette = list(meta.get('classes') or ()), meta.get('palette')
    if not isinstance(palette, list | tuple):  # 'random', or none
        palette = []
    if palette and isinstance(palette[0], int):  # one colour for all
        palette = [palette] * len(classes)
    found = dict(
        kind=graph.kind,
        channels='RGB' if graph.rgb else 'BGR',
        steps=list(describe_steps(cfg)),
        mean=graph.mean.flatten().tolist(),
        std=graph.std.flatten().tolist(),
        normalized_inside=True,
        padded_inside_to=graph.divisor,
        classes=classes,
        palette=palette,
        outputs=OUTPUTS[graph.kind],
        G1=list(model.backbone.grid_sizes),
        G2=list(model.backbone.ds_ratios),
        precision=precision,
        versions=describe_versions(),
    )
    if checkpoint:
        found['checkpoint_sha256'] = sha256_of(locate_weights(checkpoint))
    return json.loads(json.dumps(found))


def describe_steps(cfg: Config) -> Iterator[dict]:
    """The steps of the test pipeline that change the size of the image."""
    for step in find_test_dataset(cfg).pipeline:
        kind = step['type'].rpartition('.')[2]
        if kind == 'LoadImageFromFile':
            options = {'color_type', 'imdecode_backend'} & step.keys()
            usual = not options and not step.get('to_float32')
            check_exportable(usual, 'an image loader with options')
            continue
        if kind.startswith('Pack') or kind.endswith('Annotations'):
            continue
        if kind == 'Resize' and step.get('scale_factor') == 1:
            continue
        method = dict(
            interpolation=step.get('interpolation', 'bilinear'),
            backend=step.get('backend', 'cv2'),
        )
        if kind == 'Resize' and 'scale' in step:
            scale, ratio = step['scale'], step.get('keep_ratio', False)
            scale = [scale] * 2 if isinstance(scale, int) else list(scale)
            yield dict(step='resize', scale=scale, keep_ratio=ratio, **method)
        elif kind == 'ResizeEdge' and step.get('edge', 'short') == 'short':
            yield dict(step='resize_short_edge', scale=step['scale'], **method)
        elif (
            kind == 'CenterCrop'
            and step.keys() == {'type', 'crop_size'}
            and isinstance(step['crop_size'], int)
        ):
            yield dict(step='center_crop', size=step['crop_size'])
        else:
            raise ValueError(
                f'the step {kind} of the test pipeline cannot be described in '
                'the metadata of the file'
            )
