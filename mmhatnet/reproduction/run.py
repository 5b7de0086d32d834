"""Train, test and compare a row; every step that is done stays done.

``tools/reproduce.py`` is a command over this module.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config

from ..apis.zoo import find_model, zoo_root
from ..datasets.inspection import build_dataset
from ..engine.checks import check_data, iter_datasets
from ..engine.provenance import (
    RUN,
    describe_run,
    describe_weights,
    read_provenance,
)
from ..engine.resuming import find_checkpoints, is_intact
from ..engine.runner import die_with_parent
from ..utils.atomic import replacing
from ..utils.config import read_config
from ..weights.download import sha256_of
from ..weights.files import (
    read_checkpoint,
    save_checkpoint,
    strip_checkpoint,
)
from .experiments import Experiment, find_experiment
from .result import (
    KINDS,
    compare,
    draw_curves,
    keep_numbers,
    measure_seconds,
    read_curve,
    read_metrics,
    read_result,
)
from .smoke import shrink

# A checkpoint has weights, two moments of AdamW, and some are kept.
BYTES_PER_PARAMETER, KEPT = 12, 5
# What a training and its row have in common.
COMPARED = (
    *('model', 'data_preprocessor', 'train_dataloader', 'optim_wrapper'),
    *('param_scheduler', 'train_cfg'),
)


def make_config(experiment: Experiment, smoke: bool = False) -> Config:
    """Make the config of an experiment.

    Args:
        experiment (Experiment): The experiment.
        smoke (bool): Use the demo data and a few steps. Defaults to False.

    Returns:
        Config: The config.
    """
    cfg = experiment.config()
    return shrink(cfg) if smoke else cfg


def find_obstacles(
    cfg: Config, gpus: int, folder: Path, parameters: int, train: bool = True
) -> list[str]:
    """Find all that is missing for a run, at once.

    Args:
        cfg (Config): The config.
        gpus (int): Number of GPUs that this machine needs; 0 for none.
        folder (Path): The folder for the results; it need not exist.
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
            read_checkpoint(init_cfg['checkpoint'])
        except (OSError, ValueError) as error:
            found.append(f'the pretrained weights: {error}')
    need = BYTES_PER_PARAMETER * parameters * KEPT
    disk = next(x for x in (folder, *folder.absolute().parents) if x.exists())
    free = shutil.disk_usage(disk).free
    if train and free < need:
        found.append(
            f'{folder} has {free / 1e9:.1f} GB, and the checkpoints need '
            f'{need / 1e9:.1f} GB'
        )
    available = torch.cuda.device_count()
    if gpus > available and (train or available):
        found.append(f'{gpus} GPUs: this machine has {available or "none"}')
    return list(dict.fromkeys(found))


def count_test_images(cfg: Config) -> int:
    """Count the images of the test data set.

    Args:
        cfg (Config): The config.

    Returns:
        int: Their number, with ``indices`` and filters as in a test.
    """
    return sum(
        len(build_dataset(dataset, cfg.default_scope))
        for dataset in iter_datasets(cfg.test_dataloader.dataset)
    )


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
        # A copied folder still names the checkpoints of its original.
        here = path.parent.resolve() == Path(work_dir).resolve()
        if here and path.stem in (f'iter_{length}', f'epoch_{length}'):
            return path if is_intact(path) else None
    return None


def launch(
    tool: str,
    config: Path,
    *arguments: str | Path,
    gpus: int,
    slurm: str | None,
) -> None:
    """Run ``train`` or ``test`` in several processes.

    Args:
        tool (str): 'train' or 'test'.
        config (Path): The config.
        *arguments (str | Path): More arguments, for 'test' the checkpoint
            first.
        gpus (int): Number of processes.
        slurm (str, optional): A partition of Slurm; None for this machine.

    Raises:
        ValueError: If the command fails. The message has the command.
    """
    tools = zoo_root() / 'tools'
    env = {'PYTHON': sys.executable, **os.environ}
    if slurm:
        script = tools / f'slurm_{tool}.sh'
        parts = [script, slurm, config.parent.name, config, *arguments]
        env['GPUS'] = str(gpus)
    else:
        checkpoint = arguments[:1] if tool == 'test' else ()
        rest = arguments[len(checkpoint) :]
        script = tools / f'dist_{tool}.sh'
        parts = [script, config, *checkpoint, str(gpus), *rest]
    command = list(map(str, parts))
    print('$', shlex.join(command), flush=True)
    status = subprocess.run(
        command,
        env=env,
        # Else it would go on alone, and the next call find it there.
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    ).returncode
    if status in (130, -2):
        raise KeyboardInterrupt
    if status:
        raise ValueError(f'{shlex.join(command)} ended with status {status}')


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
    starts: list[dict] = []
    if experiment.trained_as and not work_dir and not checkpoint:
        base = find_experiment(experiment.trained_as)
        at = folder.with_name(folder.name.replace(experiment.name, base.name))
        found = reproduce(base, at, gpus, slurm, smoke=smoke)
        checkpoint = str(at / found['checkpoint'])
        starts = found['training']
    cfg = make_config(experiment, smoke)
    given, work_dir = work_dir, work_dir or folder / 'train'
    last = checkpoint or last_checkpoint(cfg, work_dir)
    parameters = find_model(experiment.model)['Metadata']['Parameters']
    here = 0 if slurm or smoke else gpus
    obstacles = find_obstacles(cfg, here, folder, parameters, not last)
    differences = []
    if slurm and not shutil.which('srun'):
        obstacles.append('there is no Slurm here: srun is not found')
    if given and not last:
        obstacles.append(f'{given} has no checkpoint of a complete training')
    elif given:
        differences = compare_configs(cfg, given)
        if any(key.startswith('model.') for key in differences):
            obstacles.append(
                f'the training in {given} is of another row; these settings '
                f'differ: {", ".join(differences)}'
            )
    if checkpoint:
        try:
            read_checkpoint(checkpoint)
        except (OSError, ValueError) as error:
            obstacles.append(str(error))
    if obstacles:
        raise ValueError('; '.join(obstacles))
    config = folder / 'config.py'
    with replacing(config) as part:
        Path(part).write_text(cfg.pretty_text, 'utf-8')
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
    local = Path(last).exists()
    weights = describe_weights(str(last))
    source = os.path.relpath(last, folder) if local else weights['name']
    tested = [source, Path(last).stat().st_mtime] if local else None
    done = read_result(folder / 'result.json')
    # An older version of this wrote less.
    if local and done.get('tested') == tested and done.keys() >= KINDS.keys():
        print(f'{folder} has the result of {source}', flush=True)
        return done
    if not checkpoint:
        starts = read_provenance(work_dir)
    images = count_test_images(cfg)
    tests = folder / 'test'
    launch(
        *('test', config, str(last), '--work-dir', tests),
        gpus=gpus,
        slurm=slurm,
    )
    metrics = read_metrics(tests)
    fresh = starts and not starts[0]['step']
    pretrained = starts[0]['weights'] if fresh else []
    result = dict(
        row=experiment.name,
        table=experiment.table,
        model=experiment.model,
        options=experiment.options,
        smoke=smoke,
        metrics=compare(experiment.printed, metrics),
        all_metrics=keep_numbers(metrics),
        test_images=images,
        curve=[] if checkpoint else read_curve(work_dir),
        seconds=None if checkpoint else measure_seconds(work_dir),
        gpus=gpus,
        checkpoint=source,
        tested=tested,
        sha256=dict(
            config=sha256_of(config),
            checkpoint=weights['sha256'],
            pretrained=pretrained[0]['sha256'] if pretrained else None,
        ),
        differences=differences,
        training=starts,
        # Of the training or, if that is unknown, of this test.
        **({x: starts[0][x] for x in RUN} if starts else describe_run()),
    )
    if not checkpoint:
        content = strip_checkpoint(read_checkpoint(str(last)))
        published = save_checkpoint(content, folder, experiment.name)
        result['published'] = published.name
        figure = draw_curves(work_dir)
        if figure:
            figure.savefig(folder / 'curves.png', dpi=100)
    with replacing(folder / 'result.json') as part:
        Path(part).write_text(json.dumps(result, indent=1), 'utf-8')
    return result


def compare_configs(cfg: Config, work_dir: Path) -> list[str]:
    """List the settings in which a training differs from a row.

    Args:
        cfg (Config): The config of the row.
        work_dir (Path): The folder of the training, with its config.

    Returns:
        list[str]: Their names, such as 'model.backbone.arch'. Where the
        pretrained weights came from does not count.

    Raises:
        FileNotFoundError: If the folder has no config.
    """
    found = sorted(work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f'no config of a training in {work_dir}')
    trained = read_config(found[-1])
    dump = partial(json.dumps, sort_keys=True, default=str)

    def differ(a: object, b: object, name: str) -> Iterator[str]:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for key in {**a, **b}:
                yield from differ(a.get(key), b.get(key), f'{name}.{key}')
        elif dump(a) != dump(b):
            yield name

    return [
        name
        for key in COMPARED
        for name in differ(cfg.get(key), trained.get(key), key)
        if not name.endswith('.init_cfg.checkpoint')
    ]
