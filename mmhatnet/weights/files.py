"""Checkpoint files: find, read, save, strip and unwrap them."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from torch import Tensor

from ..utils.atomic import replacing
from ..utils.hashes import sha256_of, split_pin, verify_sha256
from .download import download_file
from .official import RELEASE_URL
from .reader import META, read_file

PREFIXES = re.compile(r'^(module\.|_orig_mod\.)+')
# In the text of a config; the folder says where its author works.
WORK_DIR = re.compile(r"^work_dir = '.*/(.*)'$", re.M)
URLS = ('http://', 'https://', 'file://')


def read_checkpoint(
    filename: str | os.PathLike, map_location: str | torch.device = 'cpu'
) -> dict:
    """Read a checkpoint without running code that it may contain.

    Args:
        filename (str | PathLike): A file, an http(s) URL (kept in torch's hub
            cache) or ``hatnet://<arch>``. A ``#sha256=...`` at the end makes
            the reader verify the hash. mmengine reads other schemes, such as
            ``s3://``, and is responsible for their safety.
        map_location (str | torch.device): The device of the tensors. Defaults
            to 'cpu'.

    Returns:
        dict: As :func:`~mmhatnet.weights.reader.read_file`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a checkpoint or has another hash, or
            the scheme is unknown.
    """
    filename = os.fspath(filename)
    scheme, colon, rest = filename.partition('://')
    if colon:
        filename = scheme.lower() + colon + rest
    location, pin = split_pin(filename)
    if colon and not location.startswith(URLS):
        known = tuple(prefix for prefix in CheckpointLoader._schemes if prefix)
        if not location.startswith(known):
            raise ValueError(f"there is no reader for '{scheme}://'")
        return CheckpointLoader.load_checkpoint(filename, map_location)
    path = locate_checkpoint(location, pin)
    try:
        content = read_file(path, map_location)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f'{path} is not a checkpoint, or is damaged or incomplete '
            f'({error!s:.200}): copy or download it again'
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no state dict')
    return content


def locate_checkpoint(location: str, pin: str | None = None) -> Path:
    """Find the file at a path or URL; download it if necessary.

    Args:
        location (str): A path or a URL. ``$MMHATNET_RELEASE_URL`` replaces
            the address of the authors' release.
        pin (str, optional): The expected SHA-256. Defaults to None.

    Returns:
        Path: The file.

    Raises:
        OSError: If the file does not exist, or the download fails.
        ValueError: If the file has another hash.
    """
    url = location
    if location.startswith(f'{RELEASE_URL}/'):
        mirror = os.environ.get('MMHATNET_RELEASE_URL') or RELEASE_URL
        url = location.replace(RELEASE_URL, mirror.rstrip('/'))
    if url.startswith(('http://', 'https://')):
        return download_file(location, pin, url)
    path = Path(url).expanduser()
    if url.startswith('file://'):
        path = Path(url2pathname(urlsplit(url).path))
    if not path.is_file():
        raise FileNotFoundError(
            f'no checkpoint at {path}; names of weights start with hatnet://'
        )
    verify_sha256(path, pin)
    return path


def save_checkpoint(
    content: dict,
    folder: str | os.PathLike,
    name: str,
    suffix: str = '.pth',
) -> Path:
    """Save a checkpoint with a part of its hash in its name.

    Args:
        content (dict): The checkpoint.
        folder (str | PathLike): The folder; created if it does not exist.
        name (str): The start of the file name.
        suffix (str): '.pth', or '.safetensors' with the ``meta`` as JSON.
            Defaults to '.pth'.

    Returns:
        Path: ``<folder>/<name>-<first 8 digits of the SHA-256><suffix>``.
    """
    folder = Path(folder)
    unnamed = folder / f'{name}.part'
    with replacing(unnamed) as part:
        if suffix == '.safetensors':
            meta = {META: json.dumps(content.get('meta') or {})}
            save_file(content['state_dict'], part, meta)
        else:
            torch.save(content, part)
    digits = sha256_of(unnamed)[:8]
    return unnamed.replace(folder / f'{name}-{digits}{suffix}')


def strip_checkpoint(checkpoint: Mapping) -> dict:
    """Keep only the parts of a checkpoint that other users need.

    Args:
        checkpoint (Mapping): As from :func:`read_checkpoint`.

    Returns:
        dict: ``state_dict``, and the plain data in ``meta``, such as the
        config and the classes; no optimizer and no logs.
    """

    def is_plain(value: object) -> bool:
        if isinstance(value, Mapping):
            return all(map(is_plain, [*value.keys(), *value.values()]))
        if isinstance(value, list | tuple):
            return all(map(is_plain, value))
        return value is None or isinstance(value, str | int | float)

    meta = checkpoint.get('meta') or {}
    meta = {key: value for key, value in meta.items() if is_plain(value)}
    if isinstance(meta.get('cfg'), str):
        meta['cfg'] = WORK_DIR.sub(r"work_dir = 'work_dirs/\1'", meta['cfg'])
    return dict(meta=meta, state_dict=unwrap_state_dict(checkpoint))


def to_half(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights to float16; numbers of other kinds stay."""
    return {
        key: value.half() if value.is_floating_point() else value
        for key, value in state_dict.items()
    }


def unwrap_state_dict(checkpoint: Mapping) -> dict[str, Tensor]:
    """Get the state dict from any layout of a checkpoint.

    Args:
        checkpoint (Mapping): A state dict, bare or under ``state_dict``,
            ``model`` or ``model_ema``, with or without the prefixes
            ``module.`` of DDP and ``_orig_mod.`` of torch.compile.

    Returns:
        dict[str, Tensor]: The tensors of the state dict.

    Raises:
        ValueError: If there is no tensor.
    """
    for key in ('state_dict', 'model', 'model_ema'):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    found = {
        PREFIXES.sub('', key): value
        for key, value in checkpoint.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if len(found) < sum(isinstance(x, Tensor) for x in checkpoint.values()):
        raise ValueError('two keys of the checkpoint differ only by a prefix')
    if not found:
        keys = ', '.join(map(str, checkpoint)) or 'nothing'
        raise ValueError(f'no tensors in the checkpoint, but {keys:.240}')
    return found
