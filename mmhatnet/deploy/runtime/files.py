"""What is in a file: the metadata and the seal of a model, an image."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# Keys in the metadata of an ONNX file.
METADATA = 'mmhatnet'
DATA = 'mmhatnet_data'  # name of the file of the weights, if it is another
SEAL = 'mmhatnet_sha256'
UNSEALED = 64 * '0'
KINDS = 'classification', 'segmentation', 'detection', 'instances'
# The arguments of the steps before a model, with an example of each.
STEPS: dict[str, dict[str, object]] = dict(
    center_crop=dict(size=1),
    resize_short_edge=dict(scale=1, interpolation='', backend=''),
    resize=dict(scale=[], keep_ratio=True, interpolation='', backend=''),
)
BAD_METADATA = (
    AttributeError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)
# Files of any number of channels, which other libraries than Pillow read.
CHANNELS = {'.npy', '.tif', '.tiff'}


def read_metadata(text: str) -> dict:
    """Read the metadata of a file, which a stranger may have written.

    Args:
        text (str): The metadata in JSON.

    Returns:
        dict: The metadata.

    Raises:
        BAD_METADATA: If it is no JSON, or a part is missing or impossible.
    """
    found = json.loads(text)
    classes, steps = found['classes'], found['steps']
    if found['kind'] not in KINDS or found['channels'] not in ('RGB', 'BGR'):
        raise ValueError(f'kind {found["kind"]}, channels {found["channels"]}')
    if not all(isinstance(each, list) for each in (classes, steps)):
        raise TypeError('classes and steps are lists')
    for name in classes:
        if not name.isprintable():  # it may control the terminal
            raise ValueError(f'class name {name!r}')
    for step in steps:
        check_step(step)
    return found | dict(palette=found.get('palette'))


def check_step(step: dict) -> None:
    """Check that a step of the metadata is known and has its arguments.

    Args:
        step (dict): The step.

    Raises:
        KeyError: If an argument is missing.
        TypeError: If it is not a dict, or an argument has another type.
        ValueError: If the step is unknown, or a size is not positive.
    """
    name = step['step']
    if name not in STEPS:
        raise ValueError(f"no step '{name}': the file is of a newer mmhatnet")
    for argument, example in STEPS[name].items():
        if type(step[argument]) is not type(example):
            raise TypeError(f'{argument} of the step {name}')
    sizes = step.get('scale', step.get('size'))
    for size in sizes if isinstance(sizes, list) else [sizes]:
        if type(size) is not int or size < 1:
            raise ValueError(f'a size of {size!r} in the step {name}')
    if isinstance(sizes, list) and len(sizes) != 2:
        raise ValueError(f'{len(sizes)} sizes in the step {name}')


def digest_of(path: str | os.PathLike, seal: str, data: str = '') -> str:
    """Compute the hash of a file with its weights, without its seal.

    Args:
        path (str | PathLike): The ONNX file.
        seal (str): The 64 digits of its seal.
        data (str): The name of the file of its weights, in the same folder.
            Defaults to '', if they are inside.

    Returns:
        str: The SHA-256.
    """
    path = Path(path)
    contents = path.read_bytes().replace(seal.encode(), UNSEALED.encode())
    digest = hashlib.sha256(contents)
    if data:
        digest.update(path.with_name(Path(data).name).read_bytes())
    return digest.hexdigest()


def check_seal(path: str | os.PathLike, found: Mapping[str, str]) -> None:
    """Check that no part of a file changed after its export.

    Args:
        path (str | PathLike): The ONNX file.
        found (Mapping[str, str]): All its metadata. Without a seal, nothing
            is checked.

    Raises:
        ValueError: If a part changed.
    """
    seal = found.get(SEAL)
    if seal and digest_of(path, seal, found.get(DATA, '')) != seal:
        raise ValueError(
            f'{path}, or its *.data, is damaged or was changed after its '
            f"export: export it again, or remove '{SEAL}' from its metadata "
            'if the change is yours'
        )


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
