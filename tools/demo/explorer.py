"""A model whose G1, G2 and size of images change between two images."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mmhatnet.analysis.attention import attend_from
from mmhatnet.analysis.attention_figure import draw_attention
from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.timing import peak_memory, time_once
from mmhatnet.apis.zoo import find_weights, get_model, load_model_config
from mmhatnet.deploy.export import describe
from mmhatnet.deploy.graphs import make_graph
from mmhatnet.deploy.verification import as_arrays
from mmhatnet.runtime.arrays import prepare
from mmhatnet.runtime.images import read_image
from mmhatnet.runtime.metadata import OUTPUTS
from mmhatnet.runtime.model import predict_with
from mmhatnet.runtime.results import enlargement

LONGEST = 2048  # pixels of a side
# Limits of one request, so that others need not wait: pixels of the image,
# multiply-accumulates of the model, and seconds, also for its turn.
PIXELS, OPERATIONS, SECONDS = 40_000_000, 100 * 10**9, 30


@dataclass(frozen=True)
class Exploration:
    """What a model finds in an image, and what that costs."""

    result: dict  # as from OnnxModel.predict
    picture: np.ndarray  # (H, W, 3), RGB
    shape: tuple[int, int]  # height and width that the model saw
    seconds: float  # of the image, after a first run that is not timed
    memory: int | None  # bytes at the peak, above the weights, if known
    operations: int  # multiply-accumulates


class Explorer:
    """A model in PyTorch that computes what its exported file would.

    The methods take the file of an image, G1 and G2 of the stages 0 to 2, and
    the shorter side in pixels; it is less if the longer one would have more
    than LONGEST, and 0 stands for the size of the model's own test data. They
    raise ValueError if the image cannot be read, is too small or too large, G1
    or G2 are not valid, or the model would need more than OPERATIONS, and
    TimeoutError if the turn, or then the computation, takes more than SECONDS.

    Args:
        model (str): A name or a config file.
        checkpoint (str, optional): As for ``mmhatnet.get_model``. Defaults to
            None, the weights of the name.

    Raises:
        ValueError: If the model has no graph.
    """

    _lock = threading.Lock()  # of all models, which share the cores

    def __init__(self, model: str, checkpoint: str | None = None) -> None:
        self.cfg = load_model_config(model)
        found = get_model(self.cfg, checkpoint or find_weights(model))
        self.graph = make_graph(found)
        self.metadata = describe(self.graph, self.cfg)
        self.backbone = self.graph.model.backbone
        self.configured = self.backbone.grid_sizes, self.backbone.ds_ratios

    def run(self, images: np.ndarray, names: Sequence[str] = ()) -> list:
        """Run the graph, as OnnxModel.run."""
        outputs = OUTPUTS[self.metadata['kind']]
        found = dict(zip(outputs, as_arrays(self.graph)(images), strict=True))
        return [found[name] for name in names or outputs]

    def explore(
        self,
        path: str | os.PathLike,
        g1: Sequence[int],
        g2: Sequence[int] | str,
        size: int,
    ) -> Exploration:
        """Predict for one image, and measure what that costs."""
        with self._request():
            image, metadata, images = self._load(path, g1, g2, size)
            operations = self._count(images.shape[2:])
            result, picture, _ = predict_with(self.run, metadata, image)
            return Exploration(
                result,
                picture,
                images.shape[2:],
                time_once(lambda: self.run(images)),
                peak_memory(lambda: self.run(images)),
                operations,
            )

    def attend(
        self,
        path: str | os.PathLike,
        point: tuple[int, int],
        g1: Sequence[int],
        g2: Sequence[int] | str,
        size: int,
    ) -> np.ndarray:
        """Draw the attention of a point for each stage and head, in RGB.

        The point has x and y in pixels of the picture of :meth:`explore`.
        """
        # The point comes from a browser.
        if (
            not isinstance(point, list | tuple)
            or len(point) != 2
            or not all(
                type(x) in (int, float) and 0 <= x < 2**31 for x in point
            )
        ):
            raise ValueError('a point has two coordinates in the picture')
        with self._request():
            image, metadata, images = self._load(path, g1, g2, size)
            self._count(images.shape[2:])
            factor = enlargement(*image.shape[:2])
            place = tuple(
                min(seen - 1, x * seen / (factor * side))
                for x, seen, side in zip(
                    point, images.shape[:1:-1], image.shape[1::-1], strict=True
                )
            )
            tensor = torch.from_numpy(images)
            normal = (tensor - self.graph.mean) / self.graph.std
            found = attend_from(self.backbone, normal, place)
        shown = images[0].transpose(1, 2, 0).astype(np.uint8)
        if metadata['channels'] == 'BGR':
            shown = shown[..., ::-1]
        canvas = FigureCanvasAgg(draw_attention(shown, place, found))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]

    @contextmanager
    def _request(self) -> Iterator[None]:
        """Wait for a turn, and stop a slow computation between two blocks."""
        if not self._lock.acquire(timeout=SECONDS):
            raise TimeoutError('the page is busy: try again')
        end = time.monotonic() + SECONDS

        def check(*_) -> None:
            if time.monotonic() > end:
                raise TimeoutError(
                    f'the computation takes more than {SECONDS} s: choose a '
                    'smaller size, a smaller G1 or a larger G2'
                )

        blocks = [block for stage in self.backbone.stages for block in stage]
        hooks = [block.register_forward_pre_hook(check) for block in blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._lock.release()

    def _load(
        self,
        path: str | os.PathLike,
        g1: Sequence[int],
        g2: Sequence[int] | str,
        size: int,
    ) -> tuple[np.ndarray, dict, np.ndarray]:
        """Set G1 and G2; read an image, and prepare it by the metadata."""
        self.backbone.set_grids(g1, g2)
        step = dict(
            step='resize',
            scale=(min(size, LONGEST), LONGEST),
            keep_ratio=True,
            interpolation='bilinear',
            backend='cv2',
        )
        metadata = self.metadata | (dict(steps=[step]) if size else {})
        image = read_image(path, PIXELS)
        return image, metadata, prepare(image, metadata)

    def _count(self, shape: Sequence[int]) -> int:
        """Count what the model would compute, and refuse too much."""
        cfg = self.cfg.copy()
        cfg.model.backbone.update(
            grid_sizes=self.backbone.grid_sizes,
            ds_ratios=self.backbone.ds_ratios,
        )
        operations = measure_complexity(cfg, shape).operations
        if operations > OPERATIONS:
            raise ValueError(
                f'this needs {operations / 1e9:.0f} G multiply-accumulates, '
                f'and the page computes up to {OPERATIONS / 1e9:.0f} G: '
                'choose a smaller size of the image, a larger G2, or a '
                'smaller G1'
            )
        return operations
