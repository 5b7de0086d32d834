"""Smaller ONNX files: half precision and integers of 8 bits."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..runtime import OnnxModel
from ..runtime.arrays import prepare
from ..runtime.images import read_image

PRODUCTS = 'Conv', 'ConvTranspose', 'Gemm', 'MatMul'


def to_float16(path: str | os.PathLike) -> None:
    """Convert convolutions and products of a file to half precision.

    The rest stays in float32, since coordinates of boxes need more digits, and
    squares in norms more range.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    proto = onnx.load(path)
    kinds = {node.op_type for node in proto.graph.node}
    half = convert_float_to_float16(
        proto,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=kinds.difference(PRODUCTS),
    )
    # It would round to half between any two nodes.
    edited = OnnxModel(half)
    edited.remove_cascaded_cast_nodes()
    onnx.save(edited.model, path)


def to_int8(path: str | os.PathLike, images: Iterator[np.ndarray]) -> None:
    """Convert convolutions and products of a file to integers of 8 bits.

    Activations have one scale per tensor, which spans the values that occur
    with the images of :func:`read_images`.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    inputs = map(OnnxModel(path).make_inputs, images)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(inputs, None)

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
    """Read images as inputs, (1, 3, H, W), of a model with this metadata.

    Raises:
        ValueError: If an image cannot be read, or is too small.
    """
    for path in paths:
        image = read_image(path)
        try:
            yield prepare(image, metadata)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
