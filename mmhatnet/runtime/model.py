"""Models of any task from ONNX files."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .arrays import best_class, check_size, paste, prepare
from .budget import choose
from .grids import INPUTS, check_setting, grid_inputs
from .images import read_image
from .metadata import (
    BAD_METADATA,
    METADATA,
    OUTPUTS,
    has_batches,
    read_metadata,
)
from .results import Result, classification, detection, segmentation

PROVIDERS = 'CUDAExecutionProvider', 'CPUExecutionProvider'


class OnnxModel:
    """A model of any task from an ONNX file.

    Args:
        path (str | PathLike): The file, written by
            ``tools/deployment/export.py``.
        threads (int, optional): Number of CPU threads. Defaults to None, which
            leaves the choice to onnxruntime.
        budget_ms (float, optional): Time of the graph for one image, in
            milliseconds. The largest size of images that keeps it here is
            measured at the start, in seconds, and used; if the file has a
            curve, it is the best size, G1 and G2 of the curve. Defaults to
            None, the size of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If onnxruntime is missing.
        ValueError: If it is not such a file, or no size is within the budget.

    Attributes:
        metadata (dict): What the file says about itself, such as ``kind``,
            ``steps`` (what happens to an image first), ``classes``, ``G1``,
            ``G2``, and perhaps ``curve``, what was measured with several
            sizes, G1 and G2.
        has_free_grids (bool): Whether :meth:`set_grids` can change G1 and G2.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        threads: int | None = None,
        budget_ms: float | None = None,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                'ONNX files need onnxruntime: pip install onnxruntime'
            ) from error
        if not Path(path).is_file():
            raise FileNotFoundError(f'no model at {path}')
        check_hash(path)  # before onnxruntime reads it
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        if threads:
            options.intra_op_num_threads = threads
        # Not TensorRT, which builds an engine for each size.
        known = onnxruntime.get_available_providers()
        providers = [name for name in PROVIDERS if name in known]
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=providers
            )
        except Exception as error:  # onnxruntime has no common base
            reason = str(error).strip().rpartition('\n')[2]
            raise ValueError(
                f'{path} is not an ONNX model, or is damaged: {reason}'
            ) from error
        found = self.session.get_modelmeta().custom_metadata_map
        if METADATA not in found:
            raise ValueError(
                f'{path} has no metadata of mmhatnet: export it with '
                'tools/deployment/export.py'
            )
        try:
            self.metadata = read_metadata(found[METADATA])
            self._check_outputs()
            names = tuple(each.name for each in self.session.get_inputs())
            self.has_free_grids = names[1:] == INPUTS
            if self.has_free_grids:
                self.set_grids()
        except BAD_METADATA as error:
            raise ValueError(
                f'{path} has invalid metadata ({type(error).__name__}, '
                f'{error}): export it again with tools/deployment/export.py'
            ) from error
        if budget_ms is not None:
            choose(self, budget_ms)

    def set_grids(
        self,
        grid_sizes: Sequence[int] | None = None,
        ds_ratios: Sequence[int] | None = None,
    ) -> None:
        """Change G1 and G2, as ``HATNet.set_grids``.

        Args:
            grid_sizes (Sequence[int], optional): G1 of the stages 0 to 2.
                Defaults to None, no change.
            ds_ratios (Sequence[int], optional): G2 of the stages 0 to 2.
                Defaults to None, no change.

        Raises:
            ValueError: If they are fixed in the file, or not valid. Then
                nothing is changed.
        """
        if not self.has_free_grids:
            raise ValueError(
                'G1 and G2 are fixed in this file: export it with --free-grids'
            )
        found = self.metadata
        g1 = check_setting(grid_sizes or found['G1'])
        g2 = check_setting(ds_ratios or found['G2'])
        found.update(G1=g1, G2=g2)

    def _check_outputs(self) -> None:
        """Check that the metadata describe the outputs of the graph."""
        outputs = self.session.get_outputs()
        names = tuple(output.name for output in outputs)
        kind, classes = self.metadata['kind'], self.metadata['classes']
        if names != OUTPUTS[kind]:
            raise ValueError(f'{kind} with {", ".join(names)}')
        number = outputs[-1].shape[1:2]  # of scores or logits
        if classes and has_batches(kind) and number != [len(classes)]:
            raise ValueError(f'{len(classes)} classes of {number}')

    def run(self, images: np.ndarray, names: Sequence[str] = ()) -> list:
        """Run the graph.

        Args:
            images (ndarray): (N, 3, H, W), 0 to 255, in the order of
                ``metadata['channels']``; one image for a detector.
            names (Sequence[str]): The outputs to compute. Defaults to (), all.

        Raises:
            ValueError: If the images have another shape, or are smaller than
                32x32 pixels, or are several for a detector.
        """
        images = np.asarray(images, np.float32)
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(f'images are (N, 3, H, W), not {images.shape}')
        if len(images) > 1 and not has_batches(self.metadata['kind']):
            raise ValueError('a detector takes one image at a time')
        check_size(*images.shape[2:])
        return self.session.run(list(names) or None, self.make_inputs(images))

    def make_inputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Make the inputs of the graph, with G1 and G2 if these are free."""
        inputs = dict(images=images)
        if self.has_free_grids:
            g1, g2 = self.metadata['G1'], self.metadata['G2']
            inputs |= grid_inputs(g1, g2, images.shape[2:])
        return inputs

    def predict(
        self,
        path: str | os.PathLike | np.ndarray,
        score_thr: float = 0.3,
        top: int = 5,
    ) -> Result:
        """Predict for one image.

        Args:
            path (str | PathLike | ndarray): The image, a file or (H, W, 3),
                BGR, 8 bits.
            score_thr (float): Lowest score of a detected object. Defaults to
                0.3.
            top (int): Number of classes of a classifier. Defaults to 5.

        Returns:
            Result: As from ``mmhatnet.apis.predict``: a dict, ready for JSON;
            its picture, RGB; and for a segmentor the labels, (H, W).

        Raises:
            ValueError: If the image cannot be read, or is too small.
        """
        image = path if isinstance(path, np.ndarray) else read_image(path)
        return predict_with(self.run, self.metadata, image, score_thr, top)


def predict_with(
    run: Callable[..., list[np.ndarray]],
    metadata: dict,
    image: np.ndarray,
    score_thr: float = 0.3,
    top: int = 5,
) -> Result:
    """Predict as :meth:`OnnxModel.predict`, with a function as its ``run``."""
    images = prepare(image, metadata)
    (h, w), seen = image.shape[:2], images.shape[2:]
    names = metadata['classes'], metadata['palette']
    if metadata['kind'] == 'classification':
        ((scores,),) = run(images)
        return classification(image, scores.tolist(), names[0], top)
    if metadata['kind'] == 'segmentation':
        same = (h, w) == seen
        ((values,),) = run(images, ['labels' if same else 'logits'])
        labels = values if same else best_class(values, (w, h))
        return segmentation(image, labels, *names)
    boxes, scores, labels, *masks = run(images)
    shown = scores >= score_thr
    ratio = np.array([w / seen[1], h / seen[0]] * 2)
    boxes = (boxes[shown] * ratio).clip(0, [w, h, w, h])
    pasted = None
    if masks:
        # One by one, since all of a large image need gigabytes.
        pairs = zip(masks[0][shown], boxes, strict=True)
        pasted = (paste(mask, box, (h, w)) for mask, box in pairs)
    found = boxes, scores[shown], labels[shown], pasted
    return detection(image, *found, *names)


def check_hash(path: str | os.PathLike) -> None:
    """Compare a file with its hash in ``<path>.sha256``, if that exists.

    Raises:
        ValueError: If it has another hash.
    """
    path = Path(path)
    record = path.with_name(f'{path.name}.sha256')
    if not record.is_file():
        return
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if record.read_bytes().split(b' ')[0] != found.encode():
        raise ValueError(
            f'{path} was changed after its export: export it again, or '
            f'delete {record.name} if the change is yours'
        )
