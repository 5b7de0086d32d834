"""Recognize, choose, train and show: ``tools/finetune.py``."""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from math import inf
from pathlib import Path

from ..engine.cli import apply_options, inherit_options
from ..engine.provenance import describe_run
from ..engine.resuming import lock_work_dir
from ..utils.atomic import replacing
from ..utils.config import read_config
from . import results
from .converting import convert
from .found import Found, describe, draw_examples, recognize
from .plan import (
    BOXES,
    METRICS,
    Plan,
    choose,
    fit_to_budget,
    schedule,
)
from .recipe import make_config, write_config
from .training import (
    INTERRUPTED,
    measure_step,
    prepare,
    quietly,
    search_lr,
    train,
    try_steps,
)

CHOICES = 'arch', 'weights', 'size', 'batch_size', 'lr', 'g1', 'g2', 'iters'
EXPORT = 150  # seconds that tests, pictures and the export may take
PLAN = 'plan.json'
Say = Callable[[str], None]


def finetune(args: argparse.Namespace) -> dict:
    """Train on a folder, or continue, and show the results.

    Args:
        args (Namespace): The arguments of ``tools/finetune.py``.

    Returns:
        dict: The content of ``result.json``.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the folder or an option cannot be used. The message says
            what to do.
    """
    work_dir: Path = args.work_dir
    found = recognize(args.path, args.seed)
    print(describe(found), flush=True)
    record = fingerprint(found, args)
    known = read_plan(work_dir, record)
    result = results.read_result(work_dir)
    if known and result.get('finished'):
        print(f'{work_dir} is finished; delete it to train again')
        show(result, work_dir)
        return result
    log = work_dir / 'finetune.log'
    with closing(lock_work_dir(work_dir)), quietly(log) as terminal:

        def say(text: str) -> None:
            print(text, file=terminal, flush=True)

        try:
            end = time.monotonic() + args.budget - min(EXPORT, args.budget / 4)
            plan = known or make_plan(found, args, work_dir, record, end, say)
            left = inf if args.iters else max(1.0, end - time.monotonic())
            ended = train(plan, work_dir / 'config.py', left, terminal)
            result = finish(plan, found, args, work_dir, ended, say)
        except Exception:
            say(f'what the libraries printed is in {log}')
            raise
    show(result, work_dir)
    return result


def fingerprint(found: Found, args: argparse.Namespace) -> dict:
    """Describe what must not change when a training is continued."""
    names = sorted(
        f'{split} {sample.image} {sample.label} {len(sample.boxes or ())}'
        for split, samples in found.splits.items()
        for sample in samples
    )
    options = {name: getattr(args, name) for name in (*CHOICES, 'seed')}
    options |= dict(budget=args.budget, cfg_options=args.cfg_options)
    digest = hashlib.sha256('\n'.join(names).encode('utf-8', 'replace'))
    record = dict(data=digest.hexdigest(), options=options)
    return json.loads(json.dumps(record, default=str))


def read_plan(work_dir: Path, record: dict) -> Plan | None:
    """Read the plan of an earlier call, if there is one.

    Args:
        work_dir (Path): The folder.
        record (dict): As from :func:`fingerprint`.

    Returns:
        Plan, optional: The plan.

    Raises:
        ValueError: If the earlier call had other data or options.
    """
    if not (work_dir / 'config.py').exists():
        return None
    try:
        content = json.loads((work_dir / PLAN).read_text('utf-8'))
        earlier = content['record']
        plan = Plan(**content['plan'])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{work_dir} has a config.py that this command has not written: '
            'choose another --work-dir'
        ) from error
    for key, name in (('data', 'other data'), ('options', 'other options')):
        if earlier[key] != record[key]:
            raise ValueError(
                f'{work_dir} was started with {name}: give the same, choose '
                'another --work-dir, or delete it'
            )
    return plan


def make_plan(
    found: Found,
    args: argparse.Namespace,
    work_dir: Path,
    record: dict,
    end: float,
    say: Say,
) -> Plan:
    """Convert the data, choose, and write ``config.py``.

    Args:
        found (Found): The data.
        args (Namespace): The arguments.
        work_dir (Path): The folder.
        record (dict): As from :func:`fingerprint`.
        end (float): When the training has to end, as of ``time.monotonic``.
        say (Callable): Shows a line.

    Returns:
        Plan: The plan.
    """
    options = {name: getattr(args, name) for name in (*CHOICES, 'seed')}
    work_dir.mkdir(parents=True, exist_ok=True)
    draw_examples(found, work_dir / 'examples.png')
    say(f'examples with their labels: {work_dir / "examples.png"}')
    plan = choose(found, options)
    data = convert(found, work_dir / 'data', args.seed)
    say('timing some steps')
    patience = args.budget / 20

    def measure(plan: Plan) -> float:
        return measure_step(plan, data, patience)

    left = end - time.monotonic() - 2 * patience
    plan = fit_to_budget(plan, left, measure, options)
    if args.lr is None:
        plan = search_lr(
            plan, args.budget / 10, lambda p, n: try_steps(p, data, n).losses
        )
    plan = schedule(plan, max(1.0, end - time.monotonic()), args.iters)
    for name, why in plan.reasons.items():
        say(f'  {name}: {why}')
    config = make_config(plan, data)
    path = work_dir / 'config.py'
    if args.cfg_options:
        trial = work_dir / 'data' / 'config.py'
        write_config(config, trial)
        cfg = read_config(trial)
        trial.unlink()
        apply_options(cfg, args)
        inherit_options(config, args, cfg)
    with replacing(work_dir / PLAN) as part:
        content = dict(record=record, plan=asdict(plan))
        part.write_text(json.dumps(content, indent=1), 'utf-8')
    write_config(config, path)  # last, since it tells that the plan is made
    return plan


def finish(
    plan: Plan,
    found: Found,
    args: argparse.Namespace,
    work_dir: Path,
    ended: tuple[int, str],
    say: Say,
) -> dict:
    """Evaluate, draw, export, and write ``result.json``.

    Args:
        plan (Plan): The plan.
        found (Found): The data.
        args (Namespace): The arguments.
        work_dir (Path): The folder.
        ended (tuple[int, str]): As from :func:`train`.
        say (Callable): Shows a line.

    Returns:
        dict: The content of ``result.json``.
    """
    path, weights = work_dir / 'config.py', work_dir / 'model.pth'
    checkpoint = results.find_best(work_dir)
    say('evaluating, and drawing predictions')
    metrics, baseline, chart = results.evaluate(plan, path, checkpoint)
    chart_name, file = results.CHARTS[plan.task in BOXES]
    results.save_figure(chart, work_dir / file)
    results.publish(checkpoint, weights)
    figure, examples = results.draw_predictions(prepare(path), weights)
    results.save_figure(figure, work_dir / 'predictions.png')
    why = 'not asked for'
    if not args.no_export:
        say('exporting to ONNX (one or two minutes)')
        why = results.export(prepare(path), weights, work_dir / 'model.onnx')
    split = 'test' if 'test' in found.splits else 'val'
    metric = METRICS[plan.task][0]
    result = dict(
        task=plan.task,
        metric_name=metric,
        metric=metrics.get(metric, 0.0),  # absent if nothing was found
        baseline=baseline,
        metrics=metrics,
        split=split,
        images={name: len(each) for name, each in found.splits.items()},
        steps=ended[0],
        ended=ended[1],
        finished=ended[1] != INTERRUPTED,
        checkpoint=checkpoint.name,
        chart=file,
        chart_name=chart_name,
        export=why,
        examples=examples,
        plan=asdict(plan),
        **describe_run(),
    )
    results.write_result(result, work_dir)
    return result


def show(result: dict, work_dir: Path) -> None:
    """Print the last screen."""
    print()
    for line in results.describe(result, work_dir):
        print(line)
    if not result['finished']:
        print('The same command continues the training.', file=sys.stderr)
