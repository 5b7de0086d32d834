"""Where trained weights come from, recorded when their training starts."""

import hashlib
import json
import subprocess
from datetime import datetime
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .analysis.timing import describe_machine
from .atomic import replacing
from .releases import locate_weights
from .stack import describe_versions
from .weights.download import sha256_of, without_password

FILE = 'provenance.json'
# What changes a training; other files of a clone do not.
CODE = 'mmhatnet', 'configs', 'tools'


def read_provenance(work_dir: str | Path) -> list[dict]:
    """Read how a training was started and resumed.

    Args:
        work_dir (str | Path): The folder of the training.

    Returns:
        list[dict]: As :meth:`ProvenanceHook.describe`, one for each start;
        empty if the folder has none, or a damaged one.
    """
    try:
        starts = json.loads(Path(work_dir, FILE).read_text('utf-8'))
    except (OSError, ValueError):
        return []
    plain = isinstance(starts, list) and all(
        isinstance(start, dict) for start in starts
    )
    return starts if plain else []


def describe_run(device: str | torch.device | None = None) -> dict:
    """Describe the versions, the code and the machine of a run.

    Args:
        device (str | torch.device, optional): The device. Defaults to None, a
            GPU if there is one.

    Returns:
        dict: ``versions``; ``commit``, None outside of a clone; ``changes``,
        the SHA-256 of what differs from the commit in ``mmhatnet``,
        ``configs`` and ``tools``, None if nothing does; and ``machine``.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    return dict(
        versions=describe_versions(),
        **describe_code(Path(__file__).resolve().parents[1]),
        machine=describe_machine(device),
    )


def describe_code(clone: Path) -> dict[str, str | None]:
    """Find the ``commit`` and the ``changes`` of :func:`describe_run`.

    Args:
        clone (Path): The folder of the clone.

    Returns:
        dict[str, str | None]: Both None if git knows nothing of the folder.
    """

    def git(*arguments: str) -> bytes:
        found = subprocess.run(
            ['git', *arguments], cwd=clone, capture_output=True
        )
        return found.stdout if found.returncode == 0 else b''

    try:
        commit = git('rev-parse', 'HEAD').decode().strip()
    except OSError:  # no git
        commit = ''
    top = git('rev-parse', '--show-toplevel') if commit else b''
    if Path(top.decode().strip() or '.') != clone:
        return dict(commit=None, changes=None)
    changes = git('diff', 'HEAD', '--binary', '--', *CODE)
    new = git('ls-files', '-z', '--others', '--exclude-standard', '--', *CODE)
    for name in filter(None, new.split(b'\0')):
        path = clone / name.decode()
        changes += name + (path.read_bytes() if path.is_file() else b'')
    digest = hashlib.sha256(changes).hexdigest() if changes else None
    return dict(commit=commit, changes=digest)


def precision_of(cfg: Config) -> str:
    """Find the dtype of a training.

    Args:
        cfg (Config): The config, as the training wrote it.

    Returns:
        str: 'float32', 'float16' or 'bfloat16'.
    """
    wrapper = cfg.optim_wrapper
    types = {
        'OptimWrapper': 'float32',
        'mmhatnet.BFloat16OptimWrapper': 'bfloat16',
    }
    found = types.get(wrapper.get('type')) or wrapper.get('dtype', 'float16')
    return str(found).removeprefix('torch.')


def describe_weights(location: str) -> dict[str, str | None]:
    """Name weights that a training starts from, and hash their file.

    Args:
        location (str): A file, URL or name.

    Returns:
        dict[str, str | None]: ``name``, without folders and passwords, and
        ``sha256``, None if mmengine alone can find the file.
    """
    name = without_password(location) if '://' in location else location
    if '://' not in location or location.startswith('file:'):
        name = Path(location).name
    try:
        return dict(name=name, sha256=sha256_of(locate_weights(location)))
    except (OSError, ValueError):
        return dict(name=name, sha256=None)


class ProvenanceHook(Hook):
    """Writes ``provenance.json`` into the work_dir when a training starts.

    A training that is resumed adds to it.
    """

    def before_train(self, runner: Runner) -> None:
        """Add this start.

        Args:
            runner (Runner): The runner, which has loaded its checkpoint.
        """
        if not is_main_process():
            return
        starts = read_provenance(runner.work_dir) if runner._resume else []
        with replacing(Path(runner.work_dir, FILE)) as part:
            text = json.dumps([*starts, self.describe(runner)], indent=1)
            Path(part).write_text(text + '\n', 'utf-8')

    @staticmethod
    def describe(runner: Runner) -> dict:
        """Describe a start.

        Args:
            runner (Runner): The runner.

        Returns:
            dict: ``started`` (the time), ``step`` (iterations done before),
            ``seed``, ``precision``, ``processes``, ``batch_size`` (of all
            processes, with accumulated batches), ``lr`` (the largest, at its
            peak), ``config`` and ``config_sha256``, ``weights`` (what it
            starts or goes on from), and those of :func:`describe_run`.
        """
        cfg, wrapper = runner.cfg, runner.optim_wrapper
        backbone = cfg.model.get('backbone') or {}
        init_cfg = backbone.get('init_cfg') or {}
        sources = [runner._load_from]
        if not runner._resume and isinstance(init_cfg, dict):
            sources.append(init_cfg.get('checkpoint'))
        text = cfg.pretty_text
        parallel = get_world_size() * getattr(
            wrapper, '_accumulative_counts', 1
        )
        groups = getattr(wrapper, 'param_groups', [])
        rates = [group.get('initial_lr', group['lr']) for group in groups]
        device = next(runner.model.parameters()).device
        return dict(
            started=datetime.now().astimezone().isoformat(timespec='seconds'),
            step=runner.iter,
            seed=runner.seed,
            precision=precision_of(cfg),
            processes=get_world_size(),
            batch_size=runner.train_dataloader.batch_size * parallel,
            lr=max(rates, default=None),
            config=Path(cfg.filename or 'config.py').stem,
            config_sha256=hashlib.sha256(text.encode()).hexdigest(),
            weights=[describe_weights(str(x)) for x in sources if x],
            **describe_run(device),
        )
