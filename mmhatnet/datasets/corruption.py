"""Common corruptions of test images, for any task."""

import zlib

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS


def _noise(image: np.ndarray, level: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return image + random.normal(0, level, image.shape)


def _blur(image: np.ndarray, level: float, _) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), level)


def _pixelate(image: np.ndarray, level: float, _) -> np.ndarray:
    size = image.shape[1::-1]
    small = [max(1, round(side / level)) for side in size]
    image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)


def _jpeg(image: np.ndarray, level: float, _) -> np.ndarray:
    _, code = cv2.imencode(
        '.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, int(level)]
    )
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
    assert decoded is not None  # OpenCV wrote it
    return decoded


def _brightness(image: np.ndarray, level: float, _) -> np.ndarray:
    return image.astype(float) + level


def _contrast(image: np.ndarray, level: float, _) -> np.ndarray:
    mean = image.mean((0, 1))
    return (image - mean) * level + mean


CORRUPTIONS = dict(
    noise=(_noise, 15),
    blur=(_blur, 0.8),
    pixelate=(_pixelate, 2),
    jpeg=(_jpeg, 20),
    brightness=(_brightness, 50),
    contrast=(_contrast, 0.4),
)


@TRANSFORMS.register_module()
class Corruption(BaseTransform):
    """Damage an image as noise, blur, compression or light would.

    Noise depends on the path of the file alone, so every model sees the same
    images. Add it to a test pipeline after the loading of the image::

        dict(type='mmhatnet.Corruption', kind='noise')

    Args:
        kind (str): 'noise' (Gaussian), 'blur' (Gaussian), 'pixelate', 'jpeg',
            'brightness' or 'contrast'.
        level (float, optional): The standard deviation of the noise, in steps
            of 8 bits; that of the blur, in pixels; the side of a block, in
            pixels; the quality of the compression, 0 to 100; the added
            brightness, in steps of 8 bits; the factor of the contrast.
            Defaults to None: 15, 0.8, 2, 20, 50 or 0.4.

    Raises:
        ValueError: If the kind is unknown, or the level is not positive, which
            only that of brightness need not be.
    """

    def __init__(self, kind: str, level: float | None = None) -> None:
        if kind not in CORRUPTIONS:
            raise ValueError(
                f"no corruption '{kind}': choose from {', '.join(CORRUPTIONS)}"
            )
        self.function, usual = CORRUPTIONS[kind]
        self.level = usual if level is None else level
        if kind != 'brightness' and not self.level > 0:
            raise ValueError(f'the level of {kind} is positive, got {level}')

    def transform(self, results: dict) -> dict:
        """Replace ``results['img']``, (H, W, 3) in 8 bits."""
        seed = zlib.crc32(str(results.get('img_path')).encode())
        image = self.function(results['img'], self.level, seed)
        results['img'] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return results
