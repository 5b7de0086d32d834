"""A model whose G1, G2 and size of images change between two images."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from mmhatnet.analysis.attention import attend_from
from mmhatnet.analysis.attention_figure import draw_attention
from mmhatnet.analysis.complexity import count_operations
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
# and multiply-accumulates of the model.
PIXELS, OPERATIONS = 40_000_000, 100 * 10**9


class Explorer:
    """A model in PyTorch that computes what its exported file would.

    The methods take the file of an image, G1 and G2 of the stages 0 to 2, and
    the shorter side in pixels; it is less if the longer one would have more
    than LONGEST, and 0 stands for the size of the model's own test data. They
    raise ValueError if the image cannot be read, is too small or too large, G1
    or G2 are not valid, or the model would need more than OPERATIONS. They
    change the model: one thread at a time may call them.

    Args:
        model (str): A name or a config file.
        checkpoint (str, optional): As for ``mmhatnet.get_model``. Defaults to
            None, the weights of the name.

    Raises:
        ValueError: If the model has no graph.
    """

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
    ) -> tuple[dict, np.ndarray, str]:
        """Predict for one image, and measure what that costs.

        Returns:
            tuple[dict, ndarray, str]: The result as from OnnxModel.predict,
            its picture, RGB, and its cost in words.
        """
        image, metadata, images = self._load(path, g1, g2, size)
        h, w = images.shape[2:]
        operations = self._count(h, w)
        result, picture, _ = predict_with(self.run, metadata, image)
        seconds = []
        memory = peak_memory(
            lambda: seconds.append(time_once(lambda: self.run(images)))
        )
        above = f'{(memory or 0) / 2**20:.0f} MiB above the weights, '
        return (
            result,
            picture,
            f'{1e3 * seconds[0]:.0f} ms, {above if memory else ""}'
            f'{operations / 1e9:.2f} G multiply-accumulates at {w}x{h} pixels',
        )

    def attend(
        self,
        path: str | os.PathLike,
        point: tuple[int, int],
        g1: Sequence[int],
        g2: Sequence[int] | str,
        size: int,
    ) -> Figure:
        """Draw the attention of a point for each stage and head.

        The point has x and y in pixels of the picture of :meth:`explore`.
        """
        image, metadata, images = self._load(path, g1, g2, size)
        (h, w), seen = image.shape[:2], images.shape[2:]
        self._count(*seen)
        factor = enlargement(h, w)
        x, y = point
        place = x * seen[1] / (factor * w), y * seen[0] / (factor * h)
        tensor = torch.from_numpy(images)
        normal = (tensor - self.graph.mean) / self.graph.std
        shown = images[0].transpose(1, 2, 0).astype(np.uint8)
        if metadata['channels'] == 'BGR':
            shown = shown[..., ::-1]
        found = attend_from(self.backbone, normal, place)
        return draw_attention(shown, place, found)

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

    def _count(self, height: int, width: int) -> int:
        """Count what the model would compute, and refuse too much."""
        grids = self.backbone.grid_sizes, self.backbone.ds_ratios
        operations = count_operations(self.cfg, grids, (height, width))
        if operations > OPERATIONS:
            raise ValueError(
                f'this needs {operations / 1e9:.0f} G multiply-accumulates, '
                f'and the page computes up to {OPERATIONS / 1e9:.0f} G: '
                'choose a smaller size of the image, a larger G2, or a '
                'smaller G1'
            )
        return operations
