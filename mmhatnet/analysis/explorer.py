"""A model whose G1, G2 and size of images change between two images.

``tools/demo_app.py`` is a page over this module.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ..apis.zoo import find_weights, get_model, load_model_config
from ..deploy.export import describe
from ..deploy.graphs import make_graph
from ..deploy.verification import as_arrays
from ..runtime import OnnxModel
from ..runtime.arrays import check_size, prepare
from ..runtime.images import read_image
from ..runtime.metadata import OUTPUTS
from ..runtime.results import enlargement
from .attention import attend_from
from .attention_figure import draw_attention
from .complexity import measure_complexity
from .timing import peak_memory, time_once

LONGEST = 2048  # pixels of a side
# What one request can take, so that others need not wait: pixels of the image,
# multiply-accumulates of the model, and seconds, also for its turn.
PIXELS, OPERATIONS, SECONDS = 40_000_000, 100 * 10**9, 30


@dataclass(frozen=True)
class Exploration:
    """What a model finds in an image, and what that costs.

    Attributes:
        result (dict): As from ``mmhatnet.apis.inference.predict``.
        picture (ndarray): (H, W, 3), RGB.
        shape (tuple[int, int]): Height and width that the model saw.
        seconds (float): Time of one image, after another one.
        memory (int, optional): Peak memory of one image in bytes, beside the
            weights; None if the system does not tell.
        operations (int): Multiply-accumulates.
    """

    result: dict
    picture: np.ndarray
    shape: tuple[int, int]
    seconds: float
    memory: int | None
    operations: int


class Explorer(OnnxModel):
    """A model in PyTorch with the interface of an exported file.

    Args:
        model (str): A name or a config file.
        checkpoint (str, optional): As for :func:`mmhatnet.get_model`.
            Defaults to None, the weights of the name.

    Raises:
        ValueError: If the model has no graph; see
            :func:`~mmhatnet.deploy.graphs.make_graph`.
    """

    _lock = threading.Lock()  # of all models, which share the cores

    def __init__(self, model: str, checkpoint: str | None = None) -> None:
        self.cfg = load_model_config(model)
        found = get_model(self.cfg, checkpoint or find_weights(model))
        self.graph = make_graph(found)
        self.metadata = describe(self.graph, self.cfg)
        self.backbone = self.graph.model.backbone
        self.configured = self.backbone.grid_sizes, self.backbone.ds_ratios
        self.steps = self.metadata['steps']

    def run(self, images: np.ndarray, names: Sequence[str] = ()) -> list:
        """Run the graph; see :meth:`OnnxModel.run`."""
        check_size(*images.shape[2:])
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
        """Predict for one image, and measure what that costs.

        Args:
            path (str | PathLike): The image.
            g1 (Sequence[int]): G1 of the stages 0 to 2.
            g2 (Sequence[int] | str): G2 of the stages 0 to 2.
            size (int): The shorter side in pixels; less if the longer one
                would have more than LONGEST; 0 for that of the model's own
                test data.

        Returns:
            Exploration: The result.

        Raises:
            TimeoutError: If it takes more than SECONDS.
            ValueError: If the image cannot be read, is too small or too large,
                G1 or G2 are not valid, or the model would need more than
                OPERATIONS.
        """
        with self._request():
            image, images, operations = self._load(path, g1, g2, size)
            result, picture, _ = self.predict(image)
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
        """Draw the attention of a point, for each stage and head.

        Args:
            path (str | PathLike): The image.
            point (tuple[int, int]): x and y in pixels of the picture that
                :meth:`explore` makes of the image.
            g1 (Sequence[int]): As in :meth:`explore`, like the others.
            g2 (Sequence[int] | str): G2.
            size (int): The shorter side in pixels.

        Returns:
            ndarray: The picture, (H, W, 3), RGB.

        Raises:
            TimeoutError: As from :meth:`explore`.
            ValueError: As from :meth:`explore`.
        """
        # A browser sends the point.
        if (
            not isinstance(point, list | tuple)
            or len(point) != 2
            or not all(
                type(x) in (int, float) and 0 <= x < 2**31 for x in point
            )
        ):
            raise ValueError('a point has two coordinates in the picture')
        with self._request():
            image, images, _ = self._load(path, g1, g2, size)
            tensor = torch.from_numpy(images)
            height, width = image.shape[:2]
            factor = enlargement(height, width)
            h, w = images.shape[2:]
            place = (
                min(w - 1, point[0] * w / (factor * width)),
                min(h - 1, point[1] * h / (factor * height)),
            )
            normal = (tensor - self.graph.mean) / self.graph.std
            found = attend_from(self.backbone, normal, place)
        shown = images[0].transpose(1, 2, 0).astype(np.uint8)
        if self.metadata['channels'] == 'BGR':
            shown = shown[..., ::-1]
        figure = draw_attention(shown, place, found)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]

    @contextmanager
    def _request(self) -> Iterator[None]:
        """Wait for a turn, and end what takes too long between two blocks."""
        if not self._lock.acquire(timeout=SECONDS):
            raise TimeoutError('others use the page: try again')
        end = time.monotonic() + SECONDS

        def check(*_) -> None:
            if time.monotonic() > end:
                raise TimeoutError(
                    f'it takes more than {SECONDS} s: choose a smaller size'
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
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Read an image, prepare it, and count what a model would compute."""
        self.backbone.set_grids(g1, g2)
        self.metadata['steps'] = self.steps
        if size:
            step = dict(
                step='resize',
                scale=(min(size, LONGEST), LONGEST),
                keep_ratio=True,
                interpolation='bilinear',
                backend='cv2',
            )
            self.metadata['steps'] = [step]
        image = read_image(path, PIXELS)
        images = prepare(image, self.metadata)
        operations = self._count(images.shape[2:])
        if operations > OPERATIONS:
            raise ValueError(
                f'this needs {operations / 1e9:.0f} G multiply-accumulates, '
                f'and the page computes up to {OPERATIONS / 1e9:.0f} G: '
                'choose a smaller size of the image, a larger G2, or a '
                'smaller G1'
            )
        return image, images, operations

    def _count(self, shape: Sequence[int]) -> int:
        cfg = self.cfg.copy()
        cfg.model.backbone.update(
            grid_sizes=self.backbone.grid_sizes,
            ds_ratios=self.backbone.ds_ratios,
        )
        return measure_complexity(cfg, shape).operations
