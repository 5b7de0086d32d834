"""The SHA-256 of files, and the one that a user pins to a location."""

import hashlib
import os
import re

PIN = '#sha256='


def split_pin(location: str) -> tuple[str, str | None]:
    """Split a location and the hash that a user pins.

    Args:
        location (str): A path, URL or name; ``#sha256=...`` may follow.

    Returns:
        tuple[str, str | None]: The location, and the hash in lower case.

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
    """Compute the SHA-256 of a file, 64 hexadecimal digits."""
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
        name (str, optional): Its name in the message. Defaults to its path.

    Raises:
        ValueError: If the file has another hash.
    """
    if pin and (found := sha256_of(path)) != pin:
        raise ValueError(
            f'{name or path} is not the requested file: its SHA-256 is '
            f'{found}, not {pin}: get it again, or correct the hash'
        )
