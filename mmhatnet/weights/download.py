"""Files from the internet, kept and verified in torch's hub cache."""

import re
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pooch
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log

from ..utils.atomic import replacing, write_text
from ..utils.hashes import sha256_of, verify_sha256
from .reader import read_file

# No checkpoint of a model in use is larger.
MAX_BYTES = 10 * 2**30


def download_file(url: str, pin: str | None = None, source: str = '') -> Path:
    """Download a checkpoint to torch's hub cache, once per machine.

    The hash of the first download is recorded beside the file in the format
    of ``sha256sum --check``, and every later use verifies it.

    Args:
        url (str): An http(s) URL, which identifies the file.
        pin (str, optional): The expected SHA-256. Defaults to None.
        source (str): A mirror to download from. Defaults to ''.

    Returns:
        Path: The file.

    Raises:
        OSError: If the download fails. It leaves no partial file.
        ValueError: If the hash differs from the pinned or the recorded one,
            the cache has a file of this name from another URL, the URL names
            no file, or the file is not a complete checkpoint.
    """
    name = urlsplit(url).path.rpartition('/')[2]
    if Path(name).name != name or name in ('', '.', '..'):
        raise ValueError(f'{without_password(url)} names no file')
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name
    source = source or url
    url = without_password(url)
    # Rank 0 goes first; a rank that does not see its file downloads it again.
    if not is_main_process():
        barrier()
    try:
        recorded = _recorded(path, url)
        if not path.exists():
            _fetch(source, path, pin or recorded)
        _verify(path, url, pin, recorded)
    finally:
        if is_main_process():
            barrier()
    return path


def without_password(url: str) -> str:
    """Remove the user and the password from a URL, for messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()


def _record(path: Path) -> Path:
    return path.with_name(path.name + '.sha256')


def _recorded(path: Path, url: str) -> str | None:
    """The recorded hash of a file, or None."""
    record = _record(path)
    if not record.exists():
        return None
    text = record.read_text('utf-8', 'replace')
    match = re.match(r'# (\S+)\n([0-9a-f]{64}) ', text)
    if not match:
        raise ValueError(f'{record} is damaged: delete it and {path}')
    if match[1] != url:
        raise ValueError(
            f'{path} is from {match[1]:.200}, not from {url}: to download the '
            f'latter, move it and {record.name} away'
        )
    return match[2]


class _LimitedFile:
    """A file that takes no more than MAX_BYTES."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, data: bytes) -> None:
        """Write data."""
        if self.file.tell() + len(data) > MAX_BYTES:
            raise OSError(f'it has more than {MAX_BYTES / 2**30:g} GiB')
        self.file.write(data)

    def flush(self) -> None:
        """Do nothing; closing the file writes the rest."""


def _refuse_encodings(response: Any, **_: Any) -> None:
    """Accept only plain bytes: a few bytes of gzip become gigabytes."""
    encoding = response.headers.get('Content-Encoding', 'identity')
    if response.ok and encoding != 'identity':
        raise OSError(f'the server sends it in the encoding {encoding:.40}')


def _fetch(url: str, path: Path, known_hash: str | None) -> None:
    shown = without_password(url)
    download = pooch.HTTPDownloader(
        progressbar=True,
        chunk_size=65536,
        headers={'Accept-Encoding': 'identity'},
        hooks={'response': _refuse_encodings},
    )
    try:
        with replacing(path) as part:
            with open(part, 'wb') as file:
                download(url, _LimitedFile(file), None)
            _check_complete(part, shown)
            verify_sha256(part, known_hash, shown)
    except OSError as error:
        reason = _find_reason(error).replace(url, shown)
        raise OSError(
            f'could not download {shown} ({reason:.200}): put it at {path}, '
            'or use no such weights: --cfg-options '
            'model.backbone.init_cfg=None in train.py, --weights none in '
            'finetune.py'
        ) from None  # the error above may show the password


def _find_reason(error: OSError) -> str:
    """Why a connection failed, without what requests writes around it."""
    inner = getattr((*error.args, None)[0], 'reason', None)
    return str(inner).rpartition(': ')[2] if inner else str(error)


def _check_complete(path: Path, url: str) -> None:
    """Check that a download is a checkpoint to its end.

    A server that does not tell the length can lose the connection silently.
    """
    try:
        read_file(path)
    except Exception as error:  # a damaged file can raise anything
        with open(path, 'rb') as file:
            start = file.read(20)
        raise ValueError(
            f'{url} is not a complete checkpoint: {error!s:.200} (it starts '
            f'with {start!r})'
        ) from error


def _verify(
    path: Path, url: str, pin: str | None, recorded: str | None
) -> None:
    verify_sha256(path, pin)
    found = sha256_of(path)
    if recorded and found != recorded:
        raise ValueError(
            f'{path} has changed since it was downloaded: its SHA-256 is '
            f'{found}, and {_record(path).name} says {recorded}. Delete both '
            'to download it again'
        )
    if recorded or not is_main_process():
        return
    try:
        write_text(_record(path), f'# {url}\n{found}  {path.name}\n')
    except OSError as error:  # a read-only cache
        print_log(f'the hash of {path} is not recorded: {error}', 'current')
