"""Common corruptions of test images, for any task."""

import zlib

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS

# These do not draw from NumPy's global generator, but take a seed.
SEEDED = 'impulse_noise', 'glass_blur'


@TRANSFORMS.register_module()
class Corruption(BaseTransform):
    """Corrupt an image as ImageNet-C does, with the package imagecorruptions.

    Randomness depends on the path of the file alone, so every model sees the
    same images. Add it to a test pipeline after the loading of the image::

        dict(type='mmhatnet.Corruption', kind='gaussian_noise')

    Args:
        kind (str): A corruption of ImageNet-C, such as 'gaussian_noise',
            'motion_blur', 'fog' or 'jpeg_compression'.
        severity (int): 1 (weak) to 5 (strong). Defaults to 1.

    Raises:
        ImportError: If imagecorruptions is not installed.
        ValueError: If the kind or the severity is unknown.
    """

    def __init__(self, kind: str, severity: int = 1) -> None:
        try:
            from imagecorruptions import corrupt, get_corruption_names
        except ImportError:
            raise ImportError(
                'corruptions need imagecorruptions: '
                'pip install imagecorruptions-imaug'
            ) from None
        kinds = get_corruption_names('all')
        if kind not in kinds:
            raise ValueError(
                f"no corruption '{kind}': choose from {', '.join(kinds)}"
            )
        if severity not in range(1, 6):
            raise ValueError(f'severity must be from 1 to 5, got {severity}')
        self.corrupt, self.kind, self.severity = corrupt, kind, severity

    def transform(self, results: dict) -> dict:
        """Corrupt ``results['img']``, (H, W, 3) in 8 bits.

        Args:
            results (dict): As from ``LoadImageFromFile``.

        Returns:
            dict: The same dict.

        Raises:
            ValueError: If a side of the image has fewer than 32 pixels.
        """
        image, path = results['img'], results.get('img_path')
        if min(image.shape[:2]) < 32:
            raise ValueError(f'corruptions need 32x32 pixels or more: {path}')
        seed = zlib.crc32(str(path).encode())
        options = dict(seed=seed) if self.kind in SEEDED else {}
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            results['img'] = self.corrupt(
                image, self.severity, self.kind, **options
            )
        finally:
            np.random.set_state(state)
        return results
