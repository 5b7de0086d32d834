"""Train, test and compare a row; every step that is done stays done.

``tools/reproduce.py`` is a command over this module.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mmengine.config import Config

from ..analysis.timing import describe_machine
from ..atomic import replacing
from ..checks import check_data
from ..resuming import find_checkpoints, is_intact
from ..stack import FAMILIES
from ..weights.files import (
    read_checkpoint,
    save_checkpoint,
    strip_checkpoint,
)
from ..zoo import find_model, zoo_root
from .experiments import METRICS, Experiment, find_experiment
from .smoke import shrink

# A checkpoint has weights, two moments of AdamW, and some are kept.
BYTES_PER_PARAMETER, KEPT = 12, 5


def prepare(experiment: Experiment, folder: Path, smoke: bool = False) -> Path:
    """Write the config of an experiment.

    Args:
        experiment (Experiment): The experiment.
        folder (Path): The folder for its results.
        smoke (bool): Shrink it to the demo data. Defaults to False.

    Returns:
        Path: The config, complete and without bases.
    """
    cfg = experiment.config()
    if smoke:
        shrink(cfg)
    path = folder / 'config.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        Path(part).write_text(cfg.pretty_text)
    return path


def find_obstacles(
    cfg: Config, gpus: int, folder: Path, parameters: int, train: bool = True
) -> list[str]:
    """Find all that is missing for a run, at once.

    Args:
        cfg (Config): The config.
        gpus (int): Number of GPUs that this machine needs, if it has any.
        folder (Path): The folder for the results.
        parameters (int): Number of parameters of the model.
        train (bool): The model will be trained. Defaults to True.

    Returns:
        list[str]: What is missing, and how to get it.
    """
    found = []
    for split in ('train', 'val', 'test') if train else ('test',):
        try:
            check_data(cfg, (split,))
        except (OSError, ValueError) as error:
            found.append(str(error))
    init_cfg = cfg.model.backbone.get('init_cfg') or {}
    if train and 'checkpoint' in init_cfg:
        try:
            read_checkpoint(init_cfg.checkpoint)
        except (OSError, ValueError) as error:
            found.append(f'the pretrained weights: {error}')
    need = BYTES_PER_PARAMETER * parameters * KEPT
    free = shutil.disk_usage(folder).free
    if train and free < need:
        found.append(
            f'{folder} has {free / 1e9:.1f} GB, and the checkpoints need '
            f'{need / 1e9:.1f} GB'
        )
    available = torch.cuda.device_count()
    if available and gpus > available:
        found.append(f'{gpus} GPUs: this machine has {available}')
    return list(dict.fromkeys(found))


def last_checkpoint(cfg: Config, work_dir: Path) -> Path | None:
    """Find the checkpoint of a training that has ended.

    Args:
        cfg (Config): The config of the training.
        work_dir (Path): Its folder.

    Returns:
        Path, optional: The checkpoint; None if the training has not ended.
    """
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    for path in find_checkpoints(work_dir):
        if path.stem in (f'iter_{length}', f'epoch_{length}'):
            return path if is_intact(path) else None
    return None


def launch(
    tool: str, config: Path, *arguments: str, gpus: int, slurm: str | None
) -> None:
    """Run ``train`` or ``test`` in several processes.

    Args:
        tool (str): 'train' or 'test'.
        config (Path): The config.
        *arguments (str): More arguments, for 'test' the checkpoint first.
        gpus (int): Number of processes.
        slurm (str, optional): A partition of Slurm; None for this machine.

    Raises:
        ValueError: If the command fails. The message has the command.
    """
    tools = zoo_root() / 'tools'
    env = {'PYTHON': sys.executable, **os.environ}
    if slurm:
        script = tools / f'slurm_{tool}.sh'
        command = [script, slurm, config.parent.name, config, *arguments]
        env['GPUS'] = str(gpus)
    else:
        checkpoint = arguments[:1] if tool == 'test' else ()
        rest = arguments[len(checkpoint) :]
        script = tools / f'dist_{tool}.sh'
        command = [script, config, *checkpoint, gpus, *rest]
    command = list(map(str, command))
    print('$', shlex.join(command), flush=True)
    status = subprocess.run(command, env=env).returncode
    if status in (130, -2):
        raise KeyboardInterrupt
    if status:
        raise ValueError(f'{shlex.join(command)} ended with status {status}')


def read_metrics(work_dir: Path) -> dict[str, float]:
    """Read the metrics of the last test, which mm's logs hold.

    Args:
        work_dir (Path): The folder of the test.

    Returns:
        dict[str, float]: The metrics by mm's names.

    Raises:
        FileNotFoundError: If there was none.
    """
    logs = sorted(work_dir.glob('*/*.json'))
    if not logs:
        raise FileNotFoundError(f'no test in {work_dir}')
    # All processes write this file, one after the other or both at once.
    metrics, _ = json.JSONDecoder().raw_decode(logs[-1].read_text().strip())
    return {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float)
    }


def compare(
    printed: dict[str, float], measured: dict[str, float]
) -> dict[str, dict]:
    """Compare metrics with print.

    Args:
        printed (dict[str, float]): By the names of the metafiles.
        measured (dict[str, float]): By mm's names.

    Returns:
        dict[str, dict]: For each metric ``printed``, ``measured``,
        ``difference``, the assumed ``spread`` of trainings, and ``within``
        it.
    """
    table = {}
    for name, value in printed.items():
        key, factor, spread = METRICS[name]
        if key.startswith('coco/') and key not in measured:
            measured = {**measured, key: 0}  # mmdet, if nothing is detected
        found = round(measured[key] * factor, 2)
        difference = round(found - value, 2)
        table[name] = dict(
            printed=value,
            measured=found,
            difference=difference,
            spread=spread,
            within=abs(difference) <= spread,
        )
    return table


def check_result(result: dict, experiment: Experiment, source: str) -> None:
    """Check the content of a ``result.json`` that others may have sent.

    Args:
        result (dict): The content.
        experiment (Experiment): Its row.
        source (str): The file, for the message.

    Raises:
        ValueError: If it is not of this row, or of a smoke test, or if its
            numbers do not fit each other.
    """
    if result.get('smoke') is not False:
        raise ValueError(f'{source} is of a smoke test')
    metrics = result.get('metrics')
    try:
        measured = {
            METRICS[name][0]: entry['measured'] / METRICS[name][1]
            for name, entry in metrics.items()
        }
        fits = compare(experiment.printed, measured) == metrics
    except (AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f'{source}: the metrics do not fit {experiment.name}')
    lacking = {'commit', 'machine', 'versions', 'gpus'} - result.keys()
    if lacking:
        raise ValueError(f'{source} has no {", ".join(sorted(lacking))}')


def measure_seconds(work_dir: Path) -> int:
    """Measure how long a training took, with the parts that were killed.

    Args:
        work_dir (Path): The folder of the training.

    Returns:
        int: From the first to the last line of each log.
    """
    total = 0
    for log in work_dir.glob('*/*.log'):
        start = time.strptime(log.stem, '%Y%m%d_%H%M%S')
        total += log.stat().st_mtime - time.mktime(start)
    return round(total)


def draw_curves(work_dir: Path) -> Figure | None:
    """Draw the loss and the metrics of a training, over its resumed parts.

    Args:
        work_dir (Path): The folder of the training.

    Returns:
        Figure, optional: None if there are no logs.
    """
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            step = entry.get('step')
            keys = {metric[0] for metric in METRICS.values()}
            for key in ('loss', 'lr', *keys):
                if step is not None and key in entry:
                    curves.setdefault(key, {})[step] = entry[key]
    if not curves:
        return None
    figure = Figure(figsize=(4 * len(curves), 3), layout='constrained')
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (key, values) in zip(axes, curves.items(), strict=True):
        axis.plot(*zip(*sorted(values.items()), strict=True))
        axis.set(title=key, xlabel='step')
        axis.grid(alpha=0.3)
    return figure


def describe_run() -> dict:
    """Describe the versions, the commit and the machine of a result.

    Returns:
        dict: ``versions``, ``commit`` (None outside of a clone) and
        ``machine``.
    """
    packages = [p for family in FAMILIES.values() for p in family.values()]
    installed = {}
    for name in ('mmhatnet', 'torch', *(name for name, *_ in packages)):
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    git = subprocess.run(
        ['git', 'rev-parse', 'HEAD'],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return dict(
        versions=installed,
        commit=git.stdout.strip() or None,
        machine=describe_machine(device),
    )


def reproduce(
    experiment: Experiment,
    folder: Path,
    gpus: int = 8,
    slurm: str | None = None,
    work_dir: Path | None = None,
    checkpoint: str | None = None,
    smoke: bool = False,
) -> dict:
    """Train, test and compare a row of the paper.

    Args:
        experiment (Experiment): The row.
        folder (Path): The folder for ``result.json``, the log, the curves and
            the checkpoint to publish. A second call goes on there.
        gpus (int): Number of processes. Defaults to 8.
        slurm (str, optional): A partition of Slurm. Defaults to None, this
            machine.
        work_dir (Path, optional): A training that exists. Defaults to None:
            train in ``folder/train``.
        checkpoint (str, optional): Weights to test instead of a training.
            Defaults to None.
        smoke (bool): Use the demo data and a few steps. Defaults to False.

    Returns:
        dict: The content of ``result.json``.

    Raises:
        ValueError: If something is missing; the message names all of it.
    """
    if experiment.trained_as and not work_dir and not checkpoint:
        base = find_experiment(experiment.trained_as)
        at = folder.with_name(folder.name.replace(experiment.name, base.name))
        found = reproduce(base, at, gpus, slurm, smoke=smoke)
        checkpoint = str(at / found['checkpoint'])
    config = prepare(experiment, folder, smoke)
    cfg = Config.fromfile(config)
    given, work_dir = work_dir, work_dir or folder / 'train'
    last = checkpoint or last_checkpoint(cfg, work_dir)
    parameters = find_model(experiment.model)['Metadata']['Parameters']
    here = 0 if slurm else gpus
    obstacles = find_obstacles(cfg, here, folder, parameters, not last)
    if given and not last:
        obstacles = [f'{given} has no checkpoint of a training that has ended']
    if obstacles:
        raise ValueError('; '.join(obstacles))
    if not last:
        scale = () if smoke else ('--auto-scale-lr',)
        launch(
            *('train', config, '--work-dir', work_dir, '--resume'),
            *scale,
            gpus=gpus,
            slurm=slurm,
        )
        last = last_checkpoint(cfg, work_dir)
        if not last:
            raise ValueError(f'the training in {work_dir} has no checkpoint')
    tests = folder / 'test'
    launch(
        *('test', config, str(last), '--work-dir', tests),
        gpus=gpus,
        slurm=slurm,
    )
    result = dict(
        row=experiment.name,
        table=experiment.table,
        model=experiment.model,
        options=experiment.options,
        smoke=smoke,
        metrics=compare(experiment.printed, read_metrics(tests)),
        seconds=None if checkpoint else measure_seconds(work_dir),
        gpus=gpus,
        checkpoint=os.path.relpath(last, folder)
        if Path(last).exists()
        else str(last),
        **describe_run(),
    )
    if not checkpoint:
        content = strip_checkpoint(read_checkpoint(str(last)))
        published = save_checkpoint(content, folder, experiment.name)
        result['published'] = published.name
        figure = draw_curves(work_dir)
        if figure:
            figure.savefig(folder / 'curves.png', dpi=100)
    with replacing(folder / 'result.json') as part:
        Path(part).write_text(json.dumps(result, indent=1))
    return result
