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

PIN = '#sha256='


def split_pin(location: str) -> tuple[str, str | None]:
    """Separate a location from the hash that a user pins.

    Args:
        location (str): A path, URL or name, as it is or with
            ``#sha256=<64 hexadecimal digits>`` behind it.

    Returns:
        tuple[str, str | None]: The location and the hash, if there is one.

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
    """Hash a file.

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


def verify_sha256(path: str | os.PathLike, pin: str | None) -> None:
    """Compare a file with the hash that a user pins.

    Args:
        path (str | PathLike): The file.
        pin (str, optional): The hash. None is never wrong.

    Raises:
        ValueError: If the file has another hash.
    """
    if pin and (found := sha256_of(path)) != pin:
        raise ValueError(
            f'{path} is not the file that was asked for: its SHA-256 is '
            f'{found}, not {pin}'
        )


def download_file(url: str, pin: str | None = None, source: str = '') -> Path:
    """Download a file to torch's hub cache, once per machine.

    The hash of the first download is recorded beside the file, as ``sha256sum
    --check`` reads it, and verified at every later use.

    Args:
        url (str): An http(s) URL. It is what the file is known by.
        pin (str, optional): SHA-256 that the file must have. Defaults to None.
        source (str): Another URL to get it from. Defaults to ``url``.

    Returns:
        Path: The file.

    Raises:
        OSError: If the file cannot be downloaded. Nothing is left of it then.
        ValueError: If the file has another hash than the pinned or recorded
            one, or the cache has a file of that name from another URL.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints'
    path /= Path(urlsplit(url).path).name
    # Rank 0 goes first; ranks that do not see its files follow.
    if not is_main_process():
        barrier()
    try:
        recorded = _recorded(path, url)
        if not path.exists():
            _fetch(source or url, path, pin or recorded)
        _verify(path, url, pin, recorded)
    finally:
        if is_main_process():
            barrier()
    return path


def _record(path: Path) -> Path:
    return path.with_name(path.name + '.sha256')


def _recorded(path: Path, url: str) -> str | None:
    """The hash that was recorded for a file, if there is one."""
    record = _record(path)
    if not record.exists():
        return None
    match = re.match(r'# (\S+)\n([0-9a-f]{64}) ', record.read_text())
    if not match:
        raise ValueError(f'{record} is damaged: delete it and {path}')
    if match[1] != url:
        raise ValueError(
            f'{path} is from {match[1]} and not from {url}: move it and '
            f'{record.name} away to use the latter'
        )
    return match[2]


def _fetch(url: str, path: Path, known_hash: str | None) -> None:
    # Its lines are about known_hash, an argument that our users do not have.
    pooch.get_logger().setLevel('WARNING')
    try:
        # To a temporary file, which is moved when it is complete.
        pooch.retrieve(
            url,
            known_hash and f'sha256:{known_hash}',
            fname=path.name,
            path=path.parent,
            progressbar=True,
        )
    except OSError as error:
        raise OSError(
            f'could not download {url} ({error}); get it by other means and '
            f'put it at {path}'
        ) from error


def _verify(path: Path, url: str, pin: str | None, recorded: str | None):
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
    record = _record(path)
    # Moved when complete, for processes that read it meanwhile.
    part = record.with_name(f'{record.name}.{os.getpid()}')
    try:
        part.write_text(f'# {url}\n{sha256_of(path)}  {path.name}\n')
        part.replace(record)
    except OSError as error:  # a cache that others look after
        print_log(f'the hash of {path} is not recorded: {error}', 'current')
