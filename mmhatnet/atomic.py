"""Files that are complete or not there at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file beside its place, and move it there when it is complete.

    After a crash, also of the machine, the old file or the new one is there.

    Args:
        path (str | PathLike): The file. Its folder is created.

    Yields:
        Path: An empty file to write to. It is deleted after an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
    # Exclusive, so that no link can lead elsewhere; readable as umask says.
    part.touch(exist_ok=False)
    try:
        yield part
        with open(part, 'rb+') as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
