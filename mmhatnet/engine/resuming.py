"""The checkpoint that a run resumes from, and the lock of its work_dir."""

import os
import re
import socket
import zipfile
from pathlib import Path
from typing import TextIO

from mmengine.config import Config

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # an optional import


def is_intact(path: str | os.PathLike) -> bool:
    """Whether all checksums of a checkpoint are right.

    torch's format before 1.6 has none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many errors for damaged files
        return False


def find_checkpoints(work_dir: str | os.PathLike) -> list[Path]:
    """Find the checkpoints of a run, by the names of the files.

    mmengine only knows the one that the file ``last_checkpoint`` names, which
    is wrong after a crash or after the folder has moved.

    Args:
        work_dir (str | PathLike): The folder of the run.

    Returns:
        list[Path]: The latest first; the best ones, without the state of the
        optimizer, are last.
    """
    found = []
    folder = Path(work_dir).absolute()
    record = folder / 'last_checkpoint'
    paths = {*folder.glob('*.pth')}
    if record.is_file():
        # Checkpoints can be kept in another folder.
        named = record.read_text('utf-8', 'replace').strip()
        paths.add(Path(named).absolute())
    for path in paths:
        match = re.fullmatch(r'(best_.*)?(iter|epoch)_(\d+)\.pth', path.name)
        if match and path.is_file():
            found.append((not match[1], int(match[3]), path))
    return [path for *_, path in sorted(found, reverse=True)]


def resume_intact(cfg: Config) -> list[str]:
    """Choose the checkpoint to resume, which must be intact.

    Args:
        cfg (Config): The config; ``load_from`` may be changed.

    Returns:
        list[str]: Notes for the user.

    Raises:
        FileNotFoundError: If the checkpoint that the user chose is missing.
        ValueError: If it is damaged, or if no checkpoint is intact.
    """
    chosen = cfg.get('load_from') or ''
    if not cfg.get('resume') or '://' in chosen:
        return []
    if chosen and not Path(chosen).is_file():
        raise FileNotFoundError(f'no checkpoint at {chosen}')
    if chosen and is_intact(chosen):
        return []
    paths = find_checkpoints(Path(chosen).parent if chosen else cfg.work_dir)
    intact = next(filter(is_intact, paths), None)
    if chosen:
        remedy = f'--resume {intact}' if intact else 'copy it again'
        raise ValueError(
            f'{chosen} is not a checkpoint, or is damaged: {remedy}'
        )
    if not paths:
        return []
    if not intact:
        names = ', '.join(map(str, paths))
        raise ValueError(
            f'no checkpoint is intact: {names}. Delete them to start from the '
            'beginning'
        )
    cfg.load_from = str(intact)
    notes = []
    damaged = ', '.join(map(str, paths[: paths.index(intact)]))
    if damaged:
        notes.append(f'damaged: {damaged}; resuming from {intact}')
    if intact.name.startswith('best_'):
        notes.append(
            f'{intact} has no optimizer state: the optimizer starts from '
            'scratch'
        )
    return notes


def lock_work_dir(work_dir: str | os.PathLike) -> TextIO:
    """Keep other processes out of a folder while this one runs.

    Args:
        work_dir (str | PathLike): The folder; created if it does not exist.

    Returns:
        TextIO: The open lock. Closing it frees the folder.

    Raises:
        ValueError: If another process has it. The message names the process.
    """
    path = Path(work_dir, '.lock')
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
    try:
        # Of the process, so that workers of data loaders do not keep it.
        fcntl and fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read().strip()
        raise ValueError(
            f'{work_dir} is in use by {holder}: wait for it, stop it, or '
            'choose another --work-dir'
        ) from None
    except OSError:
        return file  # some network file systems have no locks
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    return file
