"""Files that strangers or accidents may have changed: images and models."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

# Keys in the metadata of an ONNX file.
DATA = 'mmhatnet_data'  # the name of the file of the weights: NAME-HASH8.data
SEAL = 'mmhatnet_sha256'
# As in the file: the key, the tag of its value and the length of that.
SEALED = re.compile(f'{SEAL}\x12@([0-9a-f]{{64}})'.encode())
UNSEALED = f'{SEAL}\x12@{64 * "0"}'.encode()
# Files of any number of channels, which other libraries than Pillow read.
CHANNELS = {'.npy', '.tif', '.tiff'}


def check_seal(path: str | os.PathLike) -> None:
    """Check that an ONNX file is as it was exported.

    Args:
        path (str | PathLike): The file. If it has no seal, nothing is
            checked.

    Raises:
        ValueError: If a part changed.
    """
    contents = Path(path).read_bytes()
    seal = SEALED.search(contents)
    if not seal:
        return
    digest = hashlib.sha256(contents.replace(seal[0], UNSEALED)).hexdigest()
    if digest != seal[1].decode():
        raise ValueError(
            f'{path} is damaged or was changed after its export: export it '
            f"again, or remove '{SEAL}' from its metadata if the change is "
            'yours'
        )


def check_data(path: str | os.PathLike, found: Mapping[str, str]) -> None:
    """Check that the file of the weights is as it was exported.

    Args:
        path (str | PathLike): The ONNX file.
        found (Mapping[str, str]): All its metadata. If they name no file,
            nothing is checked.

    Raises:
        ValueError: If it changed.
    """
    if DATA not in found:
        return
    data = Path(path).parent / Path(found[DATA]).name
    digest = data.stem.rpartition('-')[2]
    contents = data.read_bytes() if data.is_file() else b''
    if not hashlib.sha256(contents).hexdigest().startswith(digest):
        raise ValueError(f'{data} is damaged or missing: export it again')


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image.

    Args:
        path (str | PathLike): The file.

    Returns:
        ndarray: (H, W, 3), BGR, 8 bits.

    Raises:
        ValueError: If it cannot be read.
    """
    reason = unreadable(path)
    image = None if reason else cv2.imread(str(path))
    if image is None:
        raise ValueError(f'{path}: {reason or "OpenCV cannot read it"}')
    return image


def unreadable(path: str | os.PathLike) -> str | None:
    """Find the reason why a file cannot be read as an image.

    OpenCV does not report it: of a truncated file it returns the first part.

    Args:
        path (str | PathLike): The file.

    Returns:
        str, optional: The reason; None if the image can be read, or if only
        other libraries may read it.
    """
    if not os.path.exists(path):
        return 'there is no such file'
    if not os.path.getsize(path):
        return 'the file is empty'
    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError as error:
        return None if Path(path).suffix.lower() in CHANNELS else str(error)
    except (
        OSError,
        SyntaxError,  # of damaged PNG files
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        return str(error)
    return None
