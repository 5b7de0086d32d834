"""Files from the internet, kept and verified in torch's hub cache."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log

from ..atomic import replacing

PIN = '#sha256='


def split_pin(location: str) -> tuple[str, str | None]:
    """Split a location and the hash that a user pins.

    Args:
        location (str): A path, URL or name; ``#sha256=<64 hexadecimal
            digits>`` may follow.

    Returns:
        tuple[str, str | None]: The location, and the hash in lower case or
        None.

    Raises:
        ValueError: If the hash is not 64 hexadecimal digits.
    """
    location, mark, pin = location.partition(PIN)
    if mark and not re.fullmatch(r'[0-9a-fA-F]{64}', pin):
        raise ValueError(
            f'{PIN} needs the 64 hexadecimal digits that sha256sum prints, '
            f"got '{pin}'"
        )
    return location, pin.lower() or None


def sha256_of(path: str | os.PathLike) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path (str | PathLike): The file.

    Returns:
        str: 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify_sha256(
    path: str | os.PathLike, pin: str | None, name: str | None = None
) -> None:
    """Compare a file with the hash that is expected.

    Args:
        path (str | PathLike): The file.
        pin (str, optional): The expected hash; None skips the check.
        name (str, optional): What the message calls the file. Defaults to
            None, its path.

    Raises:
        ValueError: If the file has another hash.
    """
    if pin and (found := sha256_of(path)) != pin:
        raise ValueError(
            f'{name or path} is not the requested file: its SHA-256 is '
            f'{found}, not {pin}'
        )


def download_file(url: str, pin: str | None = None, source: str = '') -> Path:
    """Download a checkpoint to torch's hub cache, once per machine.

    The hash of the first download is recorded beside the file in the format
    of ``sha256sum --check``, and every later use verifies it.

    Args:
        url (str): An http(s) URL, which identifies the file.
        pin (str, optional): The expected SHA-256. Defaults to None, which
            skips the check.
        source (str): A mirror to download from. Defaults to '', which means
            ``url``.

    Returns:
        Path: The file.

    Raises:
        OSError: If the download fails. It leaves no partial file.
        ValueError: If the hash differs from the pinned or the recorded one,
            the cache has a file of this name from another URL, or the file is
            not a checkpoint, such as a page of a web site.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints'
    path /= Path(urlsplit(url).path).name
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
    """Remove the user and the password from a URL, for messages and records.

    Args:
        url (str): A URL.

    Returns:
        str: The URL without them.
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()


def is_checkpoint_format(path: Path, suffix: str) -> bool:
    """Whether a file starts like a checkpoint.

    Args:
        path (Path): The file.
        suffix (str): The end of its name; only ``.safetensors`` matters.

    Returns:
        bool: True for zip files and pickles, the formats of torch, and for
        safetensors.
    """
    with open(path, 'rb') as file:
        start = file.read(9)
    return start.startswith((b'PK\x03\x04', b'\x80')) or (
        suffix == '.safetensors' and start[8:] == b'{'
    )


def _record(path: Path) -> Path:
    return path.with_name(path.name + '.sha256')


def _recorded(path: Path, url: str) -> str | None:
    """The recorded hash of a file, or None."""
    record = _record(path)
    if not record.exists():
        return None
    match = re.match(r'# (\S+)\n([0-9a-f]{64}) ', record.read_text())
    if not match:
        raise ValueError(f'{record} is damaged: delete it and {path}')
    if match[1] != url:
        raise ValueError(
            f'{path} is from {match[1]}, not from {url}: to download the '
            f'latter, move it and {record.name} away'
        )
    return match[2]


def _fetch(url: str, path: Path, known_hash: str | None) -> None:
    try:
        with replacing(path) as part:
            download = pooch.HTTPDownloader(progressbar=True, chunk_size=65536)
            download(url, str(part), None)
            if not is_checkpoint_format(part, path.suffix):
                raise ValueError(
                    f'{without_password(url)} is not a checkpoint; it starts '
                    f'with {part.read_bytes()[:40]!r}'
                )
            verify_sha256(part, known_hash, without_password(url))
    except OSError as error:
        reason = str(error).replace(url, without_password(url))
        raise OSError(
            f'could not download {without_password(url)} ({reason}); get the '
            f'file another way and put it at {path}'
        ) from None  # the error above may show the password


def _verify(
    path: Path, url: str, pin: str | None, recorded: str | None
) -> None:
    verify_sha256(path, pin)
    if recorded is None and is_main_process():
        _write_record(path, url)
    elif recorded and (found := sha256_of(path)) != recorded:
        raise ValueError(
            f'{path} has changed since it was downloaded: its SHA-256 is '
            f'{found}, and {_record(path).name} says {recorded}. Delete both '
            'to download it again'
        )


def _write_record(path: Path, url: str) -> None:
    try:
        with replacing(_record(path)) as part:
            part.write_text(f'# {url}\n{sha256_of(path)}  {path.name}\n')
    except OSError as error:  # a read-only cache
        print_log(f'the hash of {path} is not recorded: {error}', 'current')
