"""Make ONNX files smaller: half precision and integers of 8 bits."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from ..runtime import OnnxModel
from ..runtime.arrays import prepare
from ..runtime.images import read_image

if TYPE_CHECKING:
    from onnx import GraphProto

# Largest differences to PyTorch, relative to the largest value or to 1, and
# shares of pixels with another label. Those of int8 depend on the images of
# the calibration, so it finds only values that are not finite and shapes that
# differ; a test with data finds the cost.
TOLERANCES = dict(float32=1e-3, float16=5e-2, int8=1e6)
PRODUCTS = 'Conv', 'ConvTranspose', 'MatMul', 'Gemm'


def to_float16(path: str | os.PathLike) -> None:
    """Convert an exported file to half precision, in place.

    Inputs and outputs stay in float32, and so does what makes boxes of the
    last convolutions, since coordinates need more digits, and the statistics
    of norms, since squares need more range.

    Args:
        path (str | PathLike): The file.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = onnx.load(path)
    half = convert_float_to_float16(
        proto,
        keep_io_types=True,
        disable_shape_infer=True,
        node_block_list=[
            *nodes_of_boxes(proto.graph),
            *nodes_of_statistics(proto.graph),
        ],
    )
    onnx.save(half, path)


def nodes_of_boxes(graph: 'GraphProto') -> set[str]:
    """Find the nodes between the products and where boxes are used.

    Args:
        graph (GraphProto): The graph of an ONNX file.

    Returns:
        set[str]: Their names; none if the graph suppresses no boxes.
    """
    todo = []
    for node in graph.node:
        if node.op_type == 'NonMaxSuppression':
            todo += [*node.input, *(output.name for output in graph.output)]
        elif node.op_type == 'RoiAlign':
            todo += node.input[1:]
    return _nodes_before(graph, todo, PRODUCTS)


def nodes_of_statistics(graph: 'GraphProto') -> set[str]:
    """Find the nodes from the maps to the standard deviations of norms.

    Args:
        graph (GraphProto): The graph of an ONNX file.

    Returns:
        set[str]: Their names.
    """
    ends = [node for node in graph.node if node.op_type == 'Reciprocal']
    todo = [name for node in ends for name in node.input]
    return _nodes_before(graph, todo, ('Reshape',))


def _nodes_before(
    graph: 'GraphProto', todo: list[str], stops: Sequence[str]
) -> set[str]:
    makers = {name: node for node in graph.node for name in node.output}
    found = set()
    while todo:
        node = makers.get(todo.pop())
        if node and node.name not in found and node.op_type not in stops:
            found.add(node.name)
            todo += node.input[node.op_type == 'RoiAlign' :]  # not the maps
    return found


def to_int8(path: str | os.PathLike, calibration: Sequence[Path]) -> None:
    """Convert convolutions and products to integers of 8 bits, in place.

    Weights use 7 of them and have a scale for each channel, activations one
    for each tensor, which spans the values that occur with the images.

    Args:
        path (str | PathLike): The file.
        calibration (Sequence[Path]): Images as the model will see them.

    Raises:
        ValueError: If an image cannot be read, or is too small.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = OnnxModel(path)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = (
                dict(images=images)
                for images in read_images(calibration, model.metadata)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    with TemporaryDirectory() as folder:
        prepared = Path(folder, 'prepared.onnx')
        quant_pre_process(str(path), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Reader(),
            per_channel=True,
            # Products of 8 bits overflow on x86 CPUs without VNNI.
            reduce_range=True,
            op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def read_images(paths: Sequence[Path], metadata: dict) -> Iterator[np.ndarray]:
    """Read images as inputs of a model.

    Args:
        paths (Sequence[Path]): The images.
        metadata (dict): The metadata of the model.

    Yields:
        ndarray: (1, 3, H, W), float32.

    Raises:
        ValueError: If an image cannot be read, or is too small.
    """
    for path in paths:
        image = read_image(path)
        try:
            yield prepare(image, metadata)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
