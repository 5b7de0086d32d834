"""The base of exported graphs, and replacements for modules that fix sizes."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def check_exportable(condition: object, otherwise: str) -> None:
    """Raise a ValueError that names the part that cannot be exported."""
    if not condition:
        raise ValueError(f'{otherwise} cannot be exported')


class Graph(nn.Module):
    """The base of the graphs of models of mm: normalization and padding."""

    kind: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        preprocessor = model.data_preprocessor
        mean = getattr(preprocessor, 'mean', torch.zeros(3, 1, 1))
        std = getattr(preprocessor, 'std', torch.ones(3, 1, 1))
        self.register_buffer('mean', mean.clone())
        self.register_buffer('std', std.clone())
        # Its name depends on the library.
        self.rgb = any(
            getattr(preprocessor, name, False)
            for name in ('to_rgb', 'channel_conversion', '_channel_conversion')
        )
        self.divisor = getattr(preprocessor, 'pad_size_divisor', 1)
        usual = self.divisor <= 1 or not getattr(preprocessor, 'pad_value', 0)
        check_exportable(usual, 'a pad_value other than 0')
        self.subsampled = _omit_subsampled_levels(model)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalize, then pad at the right and the bottom, as mm does."""
        images = (images - self.mean) / self.std
        if self.divisor > 1:
            bottom, right = (-side % self.divisor for side in images.shape[2:])
            images = F.pad(images, (0, right, 0, bottom))
        return images

    def extract(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of the backbone and the neck."""
        maps = list(self.model.extract_feat(self.prepare(images)))
        for _ in range(self.subsampled):
            maps.append(maps[-1][:, :, ::2, ::2])
        return maps


def _omit_subsampled_levels(model: nn.Module) -> int:
    """Let an FPN leave out the levels that it only subsamples; their number.

    It does so by max pooling, which fixes sizes modulo 2 in a graph.
    """
    neck: Any = getattr(model, 'neck', None)
    if type(neck).__name__ != 'FPN' or getattr(neck, 'add_extra_convs', True):
        return 0
    most = neck.backbone_end_level - neck.start_level
    left_out, neck.num_outs = max(0, neck.num_outs - most), most
    return left_out


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two weighted sums, for any size."""

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, height, width)."""
        rows, columns = (
            self.weights(side, count, x)
            for side, count in zip(x.shape[2:], self.size, strict=True)
        )
        # Not by matmul, which would fix whether a side is 1.
        x = (x[:, :, None] * rows[:, :, None]).sum(3)
        return (x[:, :, :, None] * columns).sum(4)

    @staticmethod
    def weights(side: int, count: int, like: Tensor) -> Tensor:
        """(count, side): the weight of each position in each mean."""
        places = torch.arange(side, device=like.device)
        cells = torch.arange(count, device=like.device)[:, None]
        first, end = cells * side // count, -(-(cells + 1) * side // count)
        inside = (places >= first) & (places < end)
        return inside.to(like) / (end - first)


def replace_modules(model: nn.Module) -> None:
    """Replace the modules that would fix the size in a graph, in place.

    These are mmseg's ``Upsample`` and the adaptive pooling of UPerNet.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(parent, name, AdaptivePool(child.output_size))
            elif type(child).__name__ == 'Upsample' and child.scale_factor:
                new = nn.Upsample(
                    scale_factor=int(child.scale_factor),
                    mode=child.mode,
                    align_corners=child.align_corners,
                )
                setattr(parent, name, new)
