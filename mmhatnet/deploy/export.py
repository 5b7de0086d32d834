"""Export models for any size of image, describe them, and verify the files.

``tools/deployment/export.py`` is a command over this module.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..checks import iter_datasets
from ..releases import locate_weights
from ..stack import describe_versions
from ..weights.download import sha256_of
from .base import Graph, refuse_if
from .graphs import OUTPUTS
from .runtime import METADATA, SMALLEST

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LARGEST = 8192  # pixels of a side
MOST = 256  # images of a batch
# Largest difference to PyTorch, relative to the largest value or to 1.
TOLERANCE = 1e-3
# Heights and widths of the images of a verification.
SHAPES = ((224, 224), (101, 77), (256, 160), (97, 353), (64, 64), (32, 50))


def export_program(
    graph: Graph, shape: tuple[int, int] = (101, 77)
) -> 'ExportedProgram':
    """Export a graph for images of any legal size.

    Args:
        graph (Graph): As from :func:`~mmhatnet.deploy.graphs.make_graph`.
        shape (tuple[int, int]): Height and width of the example. Any gives
            the same program.

    Returns:
        ExportedProgram: The program. N is dynamic, too, unless the graph finds
        objects, which takes one image.

    Raises:
        ImportError: If torch is older than 2.8.
    """
    images = torch.zeros(1, 3, *shape)
    with torch.no_grad(), sizes_of_one():
        dim = torch.export.Dim
        dims = {
            2: dim('height', min=SMALLEST, max=LARGEST),
            3: dim('width', min=SMALLEST, max=LARGEST),
        }
        if has_batches(graph.kind):
            dims[0] = dim('batch', min=1, max=MOST)
        return torch.export.export(
            graph, (images,), dynamic_shapes=(dims,), strict=False
        )


def has_batches(kind: str) -> bool:
    """Whether a file of a kind takes several images at once."""
    return kind in ('classification', 'segmentation')


@contextmanager
def sizes_of_one() -> Iterator[None]:
    """Let torch.export assume nothing about sizes of 1.

    A map of a 32x32 image has one row, and a batch may have one image.

    Raises:
        ImportError: If torch is older than 2.8.
    """
    from torch.fx.experimental import _config

    if not hasattr(_config, 'backed_size_oblivious'):
        raise ImportError(
            f'torch {torch.__version__} cannot export graphs of dynamic size: '
            '2.8 or newer can'
        )
    with _config.patch(backed_size_oblivious=True):
        yield


def describe(graph: Graph, cfg: Config, checkpoint: str | None = None) -> dict:
    """Describe an exported model: everything that its user has to know.

    Args:
        graph (Graph): The graph.
        cfg (Config): The config of the model.
        checkpoint (str, optional): A file, URL or ``hatnet://NAME``.

    Returns:
        dict: The metadata, ready for JSON.

    Raises:
        ValueError: If the test pipeline has a step that is not known.
    """
    model = graph.model
    preprocessor = {
        **cfg.get('data_preprocessor', {}),
        **cfg.model.get('data_preprocessor', {}),
    }
    rgb = preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb')
    meta = model.dataset_meta
    classes, palette = list(meta.get('classes') or ()), meta.get('palette')
    if palette and isinstance(palette[0], int):  # one colour for all
        palette = [palette] * len(classes)
    found = dict(
        kind=graph.kind,
        channels='RGB' if rgb else 'BGR',
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
        versions=describe_versions(),
    )
    if checkpoint:
        found['checkpoint_sha256'] = sha256_of(locate_weights(checkpoint))
    return json.loads(json.dumps(found))


def describe_steps(cfg: Config) -> Iterator[dict]:
    """The steps of the test pipeline that change the size of the image."""
    dataset = next(iter_datasets(cfg.test_dataloader.dataset))
    for step in dataset.pipeline:
        kind = step['type'].rpartition('.')[2]
        if kind == 'LoadImageFromFile':
            refuse_if(
                {'color_type', 'imdecode_backend'} & step.keys(),
                'an image loader with options',
            )
        if kind.startswith(('Load', 'Pack')):
            continue
        if kind == 'Resize' and step.get('scale_factor') == 1:
            continue
        if kind == 'Resize' and 'scale' in step:
            scale = step['scale']
            yield dict(
                step='resize',
                scale=[scale] * 2 if isinstance(scale, int) else list(scale),
                keep_ratio=step.get('keep_ratio', False),
                interpolation=step.get('interpolation', 'bilinear'),
                backend=step.get('backend', 'cv2'),
            )
        elif kind == 'ResizeEdge' and step.get('edge', 'short') == 'short':
            yield dict(
                step='resize_short_edge',
                scale=step['scale'],
                interpolation=step.get('interpolation', 'bilinear'),
                backend=step.get('backend', 'cv2'),
            )
        elif kind == 'CenterCrop' and set(step) <= {'type', 'crop_size'}:
            yield dict(step='center_crop', size=step['crop_size'])
        else:
            raise ValueError(
                f'the step {kind} of the test pipeline cannot be described '
                'to those who run the file'
            )


def save_onnx(
    program: 'ExportedProgram', metadata: dict, path: str | os.PathLike
) -> None:
    """Write a program as an ONNX file with its metadata.

    Args:
        program (ExportedProgram): As from :func:`export_program`.
        metadata (dict): As from :func:`describe`.
        path (str | PathLike): The file.
    """
    import onnx

    made = torch.onnx.export(
        program,
        input_names=['images'],
        output_names=metadata['outputs'],
        dynamo=True,
        verbose=False,
    )
    proto = made.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(metadata)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def save_program(
    program: 'ExportedProgram', metadata: dict, path: str | os.PathLike
) -> None:
    """Write a program as a file of torch.export with its metadata.

    Args:
        program (ExportedProgram): As from :func:`export_program`.
        metadata (dict): As from :func:`describe`.
        path (str | PathLike): The file, ``*.pt2``.
    """
    torch.export.save(
        program, path, extra_files={METADATA: json.dumps(metadata)}
    )


def verify(
    graph: nn.Module,
    run,
    kind: str,
    shapes: Sequence[tuple[int, int]] = SHAPES,
) -> list[dict]:
    """Compare an exported file with PyTorch on the same images.

    Args:
        graph (nn.Module): The graph.
        run (Callable): Runs the file: from images (N, 3, H, W), float32, to
            the list of outputs.
        kind (str): The kind of the graph.
        shapes (Sequence[tuple[int, int]]): Heights and widths in pixels.

    Returns:
        list[dict]: For each shape and number of images: ``images``,
        ``height``, ``width``, the largest ``error`` of any output, relative
        to its largest value or to 1, and the number of ``objects`` that were
        compared, if the graph finds some.
    """
    rows = []
    random = np.random.default_rng(0)
    for count, (h, w) in zip((1, 2) * len(shapes), shapes, strict=False):
        count = count if has_batches(kind) else 1
        images = random.integers(0, 256, (count, 3, h, w)).astype(np.float32)
        with torch.no_grad():
            expected = graph(torch.from_numpy(images))
        if isinstance(expected, Tensor):
            expected = (expected,)
        found, expected = run(images), [each.numpy() for each in expected]
        row = dict(images=count, height=h, width=w)
        if has_batches(kind):
            # Not by max(), which loses NaN.
            errors = list(map(relative_error, found, expected))
            row['error'] = float(np.max(errors))
        else:
            row['error'], row['objects'] = objects_error(found, expected)
        rows.append(row)
    return rows


def objects_error(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> tuple[float, int]:
    """Get the largest difference of 95 % of the objects to their counterpart.

    Non-maximum suppression turns rounding into another object where an
    overlap is at the threshold, so one object in twenty, or one, may lack a
    counterpart. The order may change where scores are equal, and the last
    objects may be others, since there is a largest number of them.

    Args:
        found (Sequence[ndarray]): Boxes (K, 4), scores (K,), labels (K,), and
            masks (K, side, side), if the graph finds some.
        expected (Sequence[ndarray]): Those of PyTorch.

    Returns:
        tuple[float, int]: The difference of scores, of boxes relative to the
        largest coordinate, or of masks in the mean; and the number of objects
        that were compared.
    """
    (boxes, scores, labels, *masks), others = expected, found
    if not len(scores) or not len(others[1]):
        return float(abs(len(scores) - len(others[1]))), 0
    largest = max(1.0, float(np.abs(boxes).max()))
    differences = np.maximum(
        np.abs(boxes[:, None] - others[0]).max(2) / largest,
        np.abs(scores[:, None] - others[1]),
    )
    differences[labels[:, None] != others[2]] = 1
    for mask, other in zip(masks, others[3:], strict=True):
        pairs = np.abs(mask[:, None] - other).mean((2, 3))
        differences = np.maximum(differences, pairs)
    lowest = max(scores.min(), others[1].min()) + TOLERANCE
    errors, count = [0.0], 0
    for axis, side in enumerate((scores, others[1])):
        nearest = np.sort(differences.min(1 - axis)[side > lowest])
        if len(nearest):
            errors.append(float(nearest[int(0.95 * (len(nearest) - 1))]))
        count = count or len(nearest)
    return max(errors), count


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Get the largest difference, relative to the largest value or to 1.

    Labels may differ where logits are equal within the tolerance, so the
    share of pixels with another label counts.
    """
    if found.shape != expected.shape:
        return float('inf')
    if not found.size:
        return 0.0
    if expected.dtype.kind in 'iu':
        return float((found != expected).mean())
    largest = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(found - expected).max()) / largest


def check_errors(rows: Sequence[dict]) -> None:
    """Check the result of a verification.

    Args:
        rows (Sequence[dict]): As from :func:`verify`.

    Raises:
        ValueError: If a difference is above TOLERANCE, or not a number.
    """
    worst = float(np.max([row['error'] for row in rows]))
    if not worst <= TOLERANCE:
        raise ValueError(
            f'the exported file differs from PyTorch by {worst:.1e}, more '
            f'than {TOLERANCE}, and is not written'
        )
