"""Where trained weights come from, recorded when their training starts."""

import hashlib
import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..utils.atomic import write_text
from ..utils.config import iter_dicts
from ..utils.device import find_device
from ..utils.hashes import sha256_of
from ..utils.stack import describe_versions
from ..weights.download import without_password
from ..weights.releases import locate_weights

FILE = 'provenance.json'
# The files of a clone that can change a training.
CODE = 'mmhatnet', 'configs', 'tools'
MAX_SECONDS = 20  # that git may take, so that a training starts soon
# What describe_run finds, and the rest of a start.
RUN = 'versions', 'commit', 'changes', 'machine'
SETTINGS = 'seed', 'precision', 'processes', 'batch_size', 'lr'
KEYS = {*RUN, *SETTINGS, 'started', 'step', 'config', 'config_sha256'}
KEYS |= {'weights'}


def read_provenance(work_dir: str | Path) -> list[dict]:
    """Read how a training was started and resumed.

    Args:
        work_dir (str | Path): The folder of the training.

    Returns:
        list[dict]: One for each start; empty if the folder has none, or a
        damaged one. Each has ``started`` (the time), ``step`` (iterations
        done before), ``seed``, ``precision``, ``processes``, ``batch_size``
        (of all processes, with accumulated batches; None if unknown), ``lr``
        (the largest, at its peak), ``config``, ``config_sha256``,
        ``weights``, and the keys of :func:`describe_run`.
    """
    try:
        starts = json.loads(Path(work_dir, FILE).read_text('utf-8'))
        complete = all(start.keys() >= KEYS for start in starts)
    except (AttributeError, OSError, TypeError, ValueError):
        return []
    return starts if complete and isinstance(starts, list) else []


def describe_run(device: str | torch.device | None = None) -> dict:
    """Describe the versions, the code and the machine of a run.

    Args:
        device (str | torch.device, optional): The device. Defaults to None, a
            GPU if there is one.

    Returns:
        dict: ``versions``; ``commit``, None outside of a clone; ``changes``,
        a SHA-256 of what differs from the commit in ``mmhatnet``,
        ``configs`` and ``tools``, None if nothing does; and ``machine``.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    return dict(
        versions=describe_versions(),
        **_describe_code(Path(__file__).resolve().parents[2]),
        machine=describe_machine(device),
    )


def describe_machine(device: str | torch.device = 'cpu') -> str:
    """Describe a device and torch; ValueError if there is no such device."""
    device = find_device(device)
    name = device.type
    if name == 'cuda':
        name = torch.cuda.get_device_name(device)
    elif name == 'cpu':
        capability = torch.backends.cpu.get_cpu_capability()
        threads = torch.get_num_threads()
        name = f'{threads} CPU thread{"s" * (threads > 1)} with {capability}'
    return f'{name}, torch {torch.__version__}'


def _describe_code(clone: Path) -> dict[str, str | None]:
    """Find ``commit`` and ``changes``, both None if git cannot tell both."""
    # A variable can name another repository, as in a hook of git.
    env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}

    def git(*arguments: str) -> bytes:
        return subprocess.check_output(
            # A monitor that git starts would keep the pipe open.
            ['git', '-c', 'core.fsmonitor=false', *arguments],
            cwd=clone,
            env=env | dict(GIT_OPTIONAL_LOCKS='0'),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=MAX_SECONDS,
        )

    try:
        found = git('rev-parse', '--show-toplevel', 'HEAD')
        top, _, commit = found.removesuffix(b'\n').rpartition(b'\n')
        if not os.path.samefile(top, clone):
            return dict(commit=None, changes=None)
        diff = 'diff', 'HEAD', '--name-only', '--no-renames', '-z', '--'
        new = 'ls-files', '--others', '--exclude-standard', '-z', '--'
        changed = git(*diff, *CODE) + git(*new, *CODE)
        digest = hashlib.sha256()
        for name in sorted({*changed.split(b'\0')} - {b''}):
            path = clone / os.fsdecode(name)
            # A file may be gone, and a folder is another repository.
            content = sha256_of(path) if path.is_file() else ''
            digest.update(b'%b\0%b\0' % (name, content.encode()))
    except (OSError, subprocess.SubprocessError):
        return dict(commit=None, changes=None)
    changes = digest.hexdigest() if changed else None
    return dict(commit=commit.decode(), changes=changes)


def precision_of(cfg: Config) -> str:
    """Find the dtype of a training, such as 'float32', by its config."""
    wrapper = cfg.optim_wrapper
    name = str(wrapper.get('type', '')).rpartition('.')[2]
    if name == 'BFloat16OptimWrapper':
        return 'bfloat16'
    if not name.startswith(('Amp', 'Apex')):
        return 'float32'
    return str(wrapper.get('dtype') or 'float16').removeprefix('torch.')


def describe_weights(location: str) -> dict[str, str | None]:
    """Name weights that a training starts from, and hash their file.

    The name has no folders, passwords and queries of a URL. The hash is None
    if mmengine alone can find the file.
    """
    name = location
    if '://' in location:
        name = without_password(location).partition('?')[0]
    if '://' not in location or location.startswith('file:'):
        name = Path(location).name
    try:
        return dict(name=name, sha256=sha256_of(locate_weights(location)))
    except (OSError, ValueError):
        return dict(name=name, sha256=None)


def _find_earlier(runner: Runner) -> list[dict]:
    """Find the earlier starts of a resumed training.

    Checkpoints can be kept in another folder than the work_dir.
    """
    if not runner.iter:
        return []
    source = runner._load_from
    beside = read_provenance(Path(source).parent) if source else []
    return beside or read_provenance(runner.work_dir)


class ProvenanceHook(Hook):
    """Writes ``provenance.json`` into the work_dir when a training starts.

    A training that is resumed adds to it.
    """

    def before_train(self, runner: Runner) -> None:
        """Add this start, after the runner has loaded its checkpoint."""
        sources = [runner._load_from]
        if not runner.iter:
            sources += [
                part['checkpoint']
                for part in iter_dicts(runner.cfg.model)
                if 'checkpoint' in part
                and 'Pretrained' in str(part.get('type'))
            ]
        # All processes do, since a download makes them wait for each other.
        weights = [describe_weights(str(x)) for x in sources if x]
        if not is_main_process():
            return
        starts = [*_find_earlier(runner), self._describe(runner, weights)]
        text = json.dumps(starts, indent=1) + '\n'
        write_text(Path(runner.work_dir, FILE), text)

    @staticmethod
    def _describe(runner: Runner, weights: list[dict]) -> dict:
        """Describe a start; see :func:`read_provenance`."""
        cfg, wrapper = runner.cfg, runner.optim_wrapper
        text = cfg.pretty_text
        # A loader with a sampler of batches, as mmdet's, has no batch_size.
        sampler = getattr(runner.train_dataloader, 'batch_sampler', None)
        size = getattr(sampler, 'batch_size', None)
        accumulated = getattr(wrapper, '_accumulative_counts', 1)
        groups = getattr(wrapper, 'param_groups', [])
        if isinstance(groups, dict):  # several optimizers
            groups = [x for each in groups.values() for x in each]
        rates = [float(x.get('initial_lr', x['lr'])) for x in groups]
        parameter = next(runner.model.parameters(), None)
        return dict(
            started=datetime.now().astimezone().isoformat(timespec='seconds'),
            step=runner.iter,
            seed=runner.seed,
            precision=precision_of(cfg),
            processes=get_world_size(),
            batch_size=size and size * accumulated * get_world_size(),
            lr=max(rates, default=None),
            config=Path(cfg.filename or 'config.py').stem,
            config_sha256=hashlib.sha256(text.encode()).hexdigest(),
            weights=weights,
            **describe_run(None if parameter is None else parameter.device),
        )
