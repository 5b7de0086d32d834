"""Read images, which may be untrusted or damaged."""

import os
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

# Files of any number of channels, which libraries other than Pillow read.
CHANNELS = {'.npy', '.tif', '.tiff'}
# The environment variable with the largest number of pixels of an image, and
# its default. Small files can have many pixels, which need gigabytes.
LIMIT, PIXELS = 'MMHATNET_MAX_PIXELS', 89_000_000
EXIF_ORIENTATION = 0x0112
# What OpenCV reads as well. Pillow runs another program for some formats.
FORMATS = (
    *('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'MPO'),
    *('PNG', 'PPM', 'SUN', 'TIFF', 'WEBP'),
)


def read_image(
    path: str | os.PathLike, limit: int | None = None
) -> np.ndarray:
    """Read an image, (H, W, 3), BGR, 8 bits; raises ValueError if it cannot.

    ``limit`` is that of :func:`open_image`.
    """
    reason = unreadable(path, limit, channels=())
    image = None if reason else decode(path)
    if image is None:
        raise ValueError(f'{path}: {reason or "OpenCV cannot read it"}')
    return image


def decode(path: str | os.PathLike) -> np.ndarray | None:
    """Read (H, W, 3), BGR, after :func:`unreadable`; None if OpenCV cannot."""
    try:
        # OpenCV's imread crashes for a name that is not valid text.
        contents = np.fromfile(path, np.uint8)
        return cv2.imdecode(contents, cv2.IMREAD_COLOR)
    except cv2.error:
        return None


def unreadable(
    path: str | os.PathLike,
    limit: int | None = None,
    channels: Collection[str] = CHANNELS,
) -> str | None:
    """Find the reason, if any, why a file cannot be read as an image.

    OpenCV does not report it: for a truncated file it returns the first part.

    Args:
        path (str | PathLike): The file.
        limit (int, optional): As for :func:`open_image`.
        channels (Collection[str]): Suffixes of files that other libraries may
            read, for which there is no reason either. Defaults to CHANNELS.
    """
    if not os.path.exists(path):
        return 'there is no such file'
    if not os.path.getsize(path):
        return 'the file is empty'
    try:
        with open_image(path, limit) as image:
            image.load()
    except UnidentifiedImageError as error:
        with open(path, 'rb') as file:
            known = file.read(4) in (b'II*\0', b'MM\0*', b'II+\0', b'\x93NUM')
        other = known and Path(path).suffix.lower() in channels
        return None if other else str(error)
    # Pillow raises SyntaxError for damaged PNG files.
    except (OSError, SyntaxError, ValueError) as error:
        return str(error)
    return None


def open_image(
    path: str | os.PathLike, limit: int | None = None
) -> Image.Image:
    """Open an image without decoding it, and refuse too many pixels.

    Args:
        path (str | PathLike): The file.
        limit (int, optional): The largest number of pixels. Defaults to None,
            that of :func:`max_pixels`.

    Raises:
        OSError: If Pillow does not know the format.
        ValueError: If it has more pixels.
    """
    most = limit or max_pixels()
    if Image.MAX_IMAGE_PIXELS and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most  # else Pillow warns below the limit
    remedy = '' if limit else f'; {LIMIT}=N changes the limit'
    try:
        Image.init()
        image = Image.open(path, formats=list(Image.OPEN.keys() & {*FORMATS}))
    except Image.DecompressionBombError:  # twice as many as Pillow's limit
        size, pixels = 'too many', most + 1
    else:
        size = f'{image.width}x{image.height}'
        pixels = image.width * image.height
    if pixels > most:
        raise ValueError(
            f'{size} pixels: images of up to {most:,} are read{remedy}'
        )
    return image


def read_size(
    path: str | os.PathLike,
) -> tuple[tuple[int, int] | None, bool]:
    """Get width and height of an image in pixels as the libraries see it.

    They rotate it as its EXIF data say, but not its annotations; the second
    value is whether they do so in a way that the size does not show. The size
    is None for files that may have any number of channels.
    """
    if Path(path).suffix.lower() in CHANNELS:
        return None, False  # Pillow takes channels for pages
    with Image.open(path) as image:
        # PNG's own method would decode the image.
        orientation = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1)
        width, height = image.size
    if orientation in range(5, 9):  # these exchange width and height
        return (height, width), width == height
    return (width, height), orientation in range(2, 5)


def max_pixels() -> int:
    """Get the largest number of pixels: $MMHATNET_MAX_PIXELS or 89 million."""
    text = os.environ.get(LIMIT) or str(PIXELS)
    if not text.isdecimal() or not int(text):
        raise ValueError(f'{LIMIT}={text:.20} is not a number of pixels')
    return int(text)
