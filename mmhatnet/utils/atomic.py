"""Write files and folders so that they are complete or absent."""

import os
import secrets
import tempfile
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


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, as :func:`replacing` does."""
    with replacing(path) as part:
        part.write_text(text, 'utf-8')


@contextmanager
def creating(
    folder: str | os.PathLike, replace: bool = False
) -> Iterator[Path]:
    """Fill a folder beside its place, and move it there when it is complete.

    Args:
        folder (str | PathLike): The folder. Its parent is created.
        replace (bool): Replace a folder that exists. Defaults to False.

    Yields:
        Path: An empty folder to fill. It is deleted after an error.

    Raises:
        FileExistsError: If the folder exists and must not be replaced.
    """
    folder = Path(folder)
    if folder.exists() and not replace:
        raise FileExistsError(f'{folder} exists; delete it to make it again')
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f'.{folder.name}.', dir=folder.parent
    ) as temporary:
        part = Path(temporary, 'new')
        part.mkdir()
        yield part
        if replace and folder.exists():
            folder.rename(Path(temporary, 'old'))
        part.rename(folder)


def check_folder(path: str | os.PathLike) -> None:
    """Check that a folder exists or can be made.

    Args:
        path (str | PathLike): The folder.

    Raises:
        NotADirectoryError: If it, or one above it, is a file.
        PermissionError: If it may not be written to.
    """
    path = Path(path).absolute()
    found = next(each for each in (path, *path.parents) if each.exists())
    if not found.is_dir():
        raise NotADirectoryError(f'{found} is a file, and has to be a folder')
    if not os.access(found, os.W_OK | os.X_OK):
        raise PermissionError(f'{found} cannot be written to: no permission')
