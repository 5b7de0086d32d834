"""Recognize, choose, train and show: ``tools/finetune.py``."""

import hashlib
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import TextIO

import numpy as np

from ..engine.provenance import describe_run
from ..engine.resuming import lock_work_dir
from ..utils.atomic import write_text
from ..weights.releases import locate_weights
from . import results
from .converting import check_apart, convert
from .found import describe, recognize
from .pictures import draw_examples
from .plan import Plan, choose, fit_to_budget, schedule
from .recipe import write_config
from .samples import Found
from .training import INTERRUPTED, quietly, search_lr, train, try_steps
from .tuning import tune_grids

EXPORT = 150  # seconds that tests, pictures and the export may take
PLAN, LOG = 'plan.json', 'finetune.log'


def finetune(args: Namespace) -> dict:
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
    check_apart(work_dir / 'data', args.path)  # before anything is written
    if args.weights not in (None, 'none'):
        locate_weights(args.weights)  # not after minutes
    found = recognize(args.path, args.seed)
    print(describe(found), flush=True)
    record = _fingerprint(found, args)
    _check_ours(work_dir)
    plan = _read_plan(work_dir, record)
    result = results.read_result(work_dir)
    exported = result.get('export') != results.NOT_ASKED or args.no_export
    if plan and result.get('finished') and exported:
        print(f'{work_dir} is finished; delete it to train again')
    else:
        log = work_dir / LOG
        with closing(lock_work_dir(work_dir)), quietly(log) as terminal:
            try:
                result = _run(found, plan, args, record, terminal)
            except Exception:
                print(f'what the libraries printed is in {log}', file=terminal)
                raise
    print('', *results.describe(result, work_dir), sep='\n')
    if not result['finished']:
        print('The same command continues the training.', file=sys.stderr)
    return result


def _run(
    found: Found,
    plan: Plan | None,
    args: Namespace,
    record: dict,
    terminal: TextIO,
) -> dict:
    """Train by the plan of an earlier call, or a new one; the result."""

    def say(text: str) -> None:
        print(text, file=terminal, flush=True)

    end = time.monotonic() + args.budget - min(EXPORT, args.budget / 4)
    plan = plan or _make_plan(found, args, record, end, say)
    left = inf if args.iters else max(1.0, end - time.monotonic())
    config = args.work_dir / 'config.py'
    steps, why = train(plan, config, left, terminal)
    weights = results.write_weights(args.work_dir)
    free = not any('backbone' in key for key in plan.cfg_options)
    if why != INTERRUPTED and free and not args.g1 and not args.g2:
        say('trying other G1 and G2')
        try:
            chosen = tune_grids(plan, config, weights, args.budget / 20)
        except KeyboardInterrupt:
            chosen = why = INTERRUPTED
        plan.reasons['G1, G2'] = chosen
        say(f'  G1, G2: {chosen}')
    result = results.finish(
        found,
        plan,
        args.work_dir,
        say,
        not args.no_export and why != INTERRUPTED,
    )
    result |= dict(
        steps=steps,
        ended=why,
        finished=INTERRUPTED not in (why, result['export']),
        plan=asdict(plan),
        **describe_run(),
    )
    _write_json(result, args.work_dir / results.RESULT)
    return result


def _write_json(content: dict, path: Path) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_text(path, text + '\n')


def _fingerprint(found: Found, args: Namespace) -> dict:
    """Describe what must not change when a training is continued."""
    data = hashlib.sha256(repr(found.samples).encode()).hexdigest()
    free = 'path', 'work_dir', 'no_export'
    options = {x: y for x, y in vars(args).items() if x not in free}
    return json.loads(json.dumps(dict(data=data, options=options)))


def _check_ours(work_dir: Path) -> None:
    """Check that no file of something else would be replaced."""
    names = {path.name for path in work_dir.glob('[!.]*')}
    if names and LOG not in names:
        raise ValueError(
            f'{work_dir} has other files: choose another --work-dir'
        )


def _read_plan(work_dir: Path, record: dict) -> Plan | None:
    """Read the plan of an earlier call with the same data and options."""
    if not (work_dir / 'config.py').exists():
        return None
    try:
        content = json.loads((work_dir / PLAN).read_text('utf-8'))
        earlier, plan = content['record'], Plan(**content['plan'])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{work_dir} has a config.py that this command has not written: '
            'choose another --work-dir'
        ) from error
    before, now = earlier['options'], record['options']
    changed = [f'--{x}' for x in now if now[x] != before.get(x)]
    other = ['data'] * (earlier['data'] != record['data'])
    if changed or other:
        raise ValueError(
            f'{work_dir} was started with other settings '
            f'({", ".join(other + changed).replace("_", "-")}): give the '
            'same, choose another --work-dir, or delete it'
        )
    return plan


def _make_plan(
    found: Found, args: Namespace, record: dict, end: float, say: Callable
) -> Plan:
    """Convert the data, choose, and write ``config.py``.

    ``end`` is when the training has to end, as of ``time.monotonic``.
    """
    options, work_dir = vars(args), args.work_dir
    draw_examples(found, work_dir / 'examples.png')
    say(f'examples with their labels: {work_dir / "examples.png"}')
    plan = choose(found, options)
    data = convert(found, work_dir / 'data', args.seed)
    say('timing some steps')
    patience = args.budget / 20

    def measure(plan: Plan) -> float:
        return try_steps(plan, data, seconds=patience)[0]

    def losses(plan: Plan, steps: int) -> np.ndarray:
        return try_steps(plan, data, steps)[1]

    left = end - time.monotonic() - 2 * patience
    plan = fit_to_budget(plan, left, measure, options)
    if args.lr is None:
        plan = search_lr(plan, args.budget / 10, losses)
    plan = schedule(plan, max(1.0, end - time.monotonic()), args.iters)
    for name, why in plan.reasons.items():
        say(f'  {name}: {why}')
    _write_json(dict(record=record, plan=asdict(plan)), work_dir / PLAN)
    # Last, since it tells that the plan is made.
    write_config(plan, data, work_dir / 'config.py')
    return plan
