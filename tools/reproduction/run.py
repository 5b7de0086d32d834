"""Train, test and compare a row; completed steps are not repeated."""

import json
import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmhatnet.engine.checks import check_data
from mmhatnet.engine.provenance import (
    RUN,
    describe_run,
    describe_weights,
    read_provenance,
)
from mmhatnet.engine.resuming import find_checkpoints, is_intact
from mmhatnet.engine.runner import die_with_parent
from mmhatnet.utils.atomic import write_text
from mmhatnet.utils.hashes import sha256_of
from mmhatnet.weights.files import read_checkpoint

from .experiments import Experiment, find_experiment
from .logs import read_curve, read_metrics, read_seconds, read_training_config
from .result import compare, read_result

TOOLS = Path(__file__).resolve().parents[1]


def reproduce(
    experiment: Experiment,
    folder: Path,
    gpus: int = 8,
    work_dir: Path | None = None,
    checkpoint: str | None = None,
    smoke: bool = False,
) -> dict:
    """Train, test and compare a row of the paper; return ``result.json``.

    It is in the folder, with the training and the test. A second call
    continues there. Instead of a training, there may be the ``work_dir`` of a
    finished one, or a checkpoint. A ``ValueError`` lists all that is missing.
    """
    if experiment.trained_as and not work_dir and not checkpoint:
        base = find_experiment(experiment.trained_as)
        at = folder.with_name(folder.name.replace(experiment.name, base.name))
        reproduce(base, at, gpus, smoke=smoke)
        work_dir = at / 'train'
    cfg = experiment.config(smoke)
    last = checkpoint or last_checkpoint(cfg, work_dir or folder / 'train')
    train = not last and not work_dir
    obstacles = find_obstacles(cfg, 0 if smoke else gpus, checkpoint, train)
    if work_dir:
        row = find_experiment(experiment.trained_as or experiment.name)
        obstacles += check_training(row.config(smoke), work_dir)
    if obstacles:
        raise ValueError('; '.join(obstacles))
    config = folder / 'config.py'
    write_text(config, cfg.pretty_text)
    work_dir = work_dir or folder / 'train'
    if train:
        options = ['--resume'] if smoke else ['--resume', '--auto-scale-lr']
        place = '--work-dir', work_dir
        launch('dist_train.sh', config, gpus, *place, *options)
        last = last_checkpoint(cfg, work_dir)
    if not last:
        raise ValueError(f'the training in {work_dir} has no checkpoint')
    starts = [] if checkpoint else read_provenance(work_dir)
    weights = describe_weights(str(last))
    whole = starts and not starts[0]['step']
    began = starts[0]['weights'] if whole else []
    sha256 = dict(
        config=sha256_of(config),
        checkpoint=weights['sha256'],
        pretrained=next((each['sha256'] for each in began), None),
    )
    local = Path(last).exists()
    source = os.path.relpath(last, folder) if local else weights['name']
    done = read_result(folder / 'result.json')
    if sha256['checkpoint'] and done.get('sha256') == sha256:
        print(f'{folder} has the result of {source}', flush=True)
        return done
    tests = folder / 'test'
    launch('dist_test.sh', config, last, gpus, '--work-dir', tests)
    metrics = read_metrics(tests)
    result = dict(
        row=experiment.name,
        table=experiment.table,
        model=experiment.model,
        options=experiment.options,
        smoke=smoke,
        metrics=compare(experiment.printed, metrics),
        all_metrics=metrics,
        test_images=count_test_images(cfg),
        curve=[] if checkpoint else read_curve(work_dir),
        seconds=None if checkpoint else read_seconds(work_dir),
        gpus=gpus,
        checkpoint=source,
        sha256=sha256,
        training=starts,
        # Of the training or, if that is unknown, of this test.
        **({x: starts[0][x] for x in RUN} if starts else describe_run()),
    )
    write_text(folder / 'result.json', json.dumps(result, indent=1))
    return result


def last_checkpoint(cfg: Config, work_dir: Path) -> Path | None:
    """Find the checkpoint of a training; None if it has not ended."""
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    for path in find_checkpoints(work_dir):
        # A copied folder still names the checkpoints of its original.
        here = path.parent.resolve() == Path(work_dir).resolve()
        if here and path.stem in (f'iter_{length}', f'epoch_{length}'):
            return path if is_intact(path) else None
    return None


def find_obstacles(
    cfg: Config, gpus: int, checkpoint: str | None, train: bool
) -> list[str]:
    """Find everything that is missing for a run on this number of GPUs."""
    splits = ('train', 'val', 'test') if train else ('test',)
    checks = [partial(check_data, cfg, (split,)) for split in splits]
    pretrained = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    for weights in (checkpoint, pretrained if train else None):
        if weights:
            checks.append(partial(read_checkpoint, weights))
    found = []
    for check in checks:
        try:
            check()
        except (OSError, ValueError) as error:
            found.append(str(error))
    available = torch.cuda.device_count()
    # Without any GPU, a test runs on the CPU.
    if gpus > available and (train or available):
        found.append(
            f'{gpus} GPUs are needed, and this machine has '
            f'{available or "none"} (see --gpus)'
        )
    return list(dict.fromkeys(found))


def check_training(cfg: Config, work_dir: Path) -> list[str]:
    """Check that a training has ended and is of the model of a config."""
    if not last_checkpoint(cfg, work_dir):
        return [f'{work_dir} has no checkpoint of a complete training']
    models = []
    for each in cfg, read_training_config(work_dir):
        model = each.model.to_dict()
        model['backbone'].pop('init_cfg', None)  # another place is fine
        models.append(json.dumps(model, sort_keys=True, default=str))
    if models[0] != models[1]:
        return [f'the model in {work_dir} is not that of the row']
    return []


def launch(script: str, *arguments: str | int | Path) -> None:
    """Run a script of ``tools/``; if it fails, raise a ValueError."""
    command = [str(TOOLS / script), *map(str, arguments)]
    print('$', shlex.join(command), flush=True)
    status = subprocess.run(
        command,
        env={'PYTHON': sys.executable, **os.environ},
        # Otherwise it continues alone, beside that of the next call.
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    ).returncode
    if status in (130, -2):
        raise KeyboardInterrupt
    if status:
        raise ValueError(f'{shlex.join(command)} ended with status {status}')


def count_test_images(cfg: Config) -> int:
    """Count the images of the test, with ``indices`` and filters."""
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        return len(registry.build(cfg.test_dataloader.dataset))
