"""Code that the commands share: arguments, the config, one-line errors."""

import argparse
import io
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from functools import reduce
from itertools import starmap, zip_longest
from operator import getitem
from pathlib import Path
from traceback import walk_tb
from typing import Any

import mmengine.logging
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger, print_log

from ..models.archs import AUTO, check_grids
from ..utils.arguments import positive as positive
from ..utils.atomic import check_folder
from ..utils.config import check_keys, read_config
from ..utils.stack import explain_missing_operators
from .explaining import explain

REPEATED = 3  # seconds in which a second Ctrl-C is the same
_interrupted = float('-inf')  # when Ctrl-C was pressed
# Warnings of mm that need no action: about OneDL's own data sets, CLRNet, and
# functions that it finds in another registry.
FALSE_ALARMS = re.compile(
    'Could not import OneDL|Line NMS is not compiled|'
    r'Failed to search registry with scope "\w+" in the "function"'
)


class OptionsAction(DictAction):
    """mmengine's action, with an error for brackets that do not match."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, *args: Any
    ) -> None:
        """Read ``KEY=VALUE`` arguments."""
        try:
            super().__call__(parser, namespace, values, *args)
        except (AssertionError, RecursionError, ValueError):
            parser.error(
                f'--cfg-options takes KEY=VALUE, not {" ".join(values)}'
            )


def make_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the arguments that training and testing share."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add('config', help='name of a model, or config file, a program that runs')
    add(
        '--work-dir',
        help='folder for logs and checkpoints; default: work_dirs/<config>',
    )
    add_cfg_options(parser)
    add(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started; dist_*.sh and slurm_*.sh set it',
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead.
    add('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add mm's ``--cfg-options`` to a parser."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='settings to override in the config, for example '
        'model.backbone.grid_sizes=8,8,8 (G1) '
        'model.backbone.ds_ratios=16,8,4 (G2); lists are a,b or "[a,b]", '
        'without blanks',
    )


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Override settings of a config: ``--cfg-options``.

    Args:
        cfg (Config): The config; changed in place.
        args (Namespace): The parsed arguments.

    Raises:
        ValueError: If the config has a misspelt key, or an option does not
            fit the config or has no effect.
    """
    given = args.cfg_options or {}
    options = {
        key: _in_containers_of(_find_setting(cfg, key), value)
        for key, value in given.items()
    }
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f'--cfg-options {", ".join(options):.200} do not fit the config: '
            f'{error!s:.200}'
        ) from None
    check_keys(cfg, options)


def inherit_options(
    config: Config, args: argparse.Namespace, complete: Config
) -> None:
    """Write ``--cfg-options`` into a config that inherits from others.

    Args:
        config (Config): What differs from its bases; changed in place.
        args (Namespace): The parsed arguments.
        complete (Config): The config with its bases and the options.
    """
    for option, value in (args.cfg_options or {}).items():
        # A config replaces a list of its base as a whole.
        name = re.sub(r'\.\d+(\..*)?$', '', option)
        if name != option:
            value = reduce(getitem, name.split('.'), complete)
        config.merge_from_dict({name: value})
    # A merge takes these words out, which the bases need.
    for option, value in (args.cfg_options or {}).items():
        *parts, name = option.split('.')
        if name == '_delete_':
            reduce(getitem, parts, config)[name] = value


def _find_setting(cfg: Config, key: str) -> Any:
    """The value that an option replaces; None if it is a new one."""
    found: Any = cfg
    for name in key.split('.'):
        if isinstance(found, list):
            found = {str(i): part for i, part in enumerate(found)}
        found = found.get(name) if isinstance(found, Config | dict) else None
    return found


def _in_containers_of(old: object, new: object) -> object:
    """Convert a list to a tuple, or the reverse, to match the old value.

    ``a,b`` is read as a list, but many arguments of mm take only tuples.
    """
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        pairs = zip_longest(old[: len(new)], new, fillvalue=[*old, None][0])
        return type(old)(starmap(_in_containers_of, pairs))
    return new


def ds_ratios(text: str) -> tuple[int, ...] | str:
    """Parse G2, which may also be 'auto', as :func:`grid_sizes`."""
    return text if text == AUTO else grid_sizes(text)


def grid_sizes(text: str) -> tuple[int, ...]:
    """Parse G1, numbers with commas between them; else ArgumentTypeError."""
    try:
        return check_grids(text, tuple(map(int, text.split(','))))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not like 8,8,8: one size for each of the stages "
            '0 to 2'
        ) from None


def add_grids(parser: argparse.ArgumentParser) -> None:
    """Add ``--g1`` and ``--g2``, of which a tool measures all pairs."""
    shared: dict = dict(nargs='+', default=[None], metavar='A,B,C')
    what = 'of the stages 0 to 2 (default: as configured)'
    parser.add_argument(
        '--g1', type=grid_sizes, help=f'grid_sizes {what}', **shared
    )
    parser.add_argument(
        '--g2', type=ds_ratios, help=f"ds_ratios, or 'auto', {what}", **shared
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape H W``, the size of images, to a parser."""
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        metavar=('H', 'W'),
        default=(224, 224),
        help='size of the images in pixels (default: 224 224)',
    )


def load_config(
    args: argparse.Namespace, read: Callable[[str], Config] = read_config
) -> Config:
    """Read the config that the arguments of :func:`make_parser` describe.

    Args:
        args (Namespace): The parsed arguments.
        read (Callable): Reads the config. Defaults to ``read_config``, which
            knows no names of models.

    Returns:
        Config: The config, with ``launcher`` and ``work_dir`` set.

    Raises:
        OSError: If the config does not exist, or the work_dir cannot.
        ValueError: If the config has a misspelt key.
    """
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read(args.config)
    apply_options(cfg, args)
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir
        or cfg.get('work_dir')
        or os.path.join('work_dirs', Path(args.config).stem)
    )
    check_folder(cfg.work_dir)
    return cfg


@contextmanager
def one_line_errors(*packages: str) -> Iterator[None]:
    """Print errors that mmhatnet raises in one line, without a traceback.

    Errors of a user's own code or of a library keep their traceback.

    Args:
        *packages (str): Other packages whose errors are treated like ours.

    Raises:
        SystemExit: Instead of an ImportError, OSError or ValueError of ours,
            or of Ctrl-C, with the shell's exit status 130.
    """
    rank = os.environ.get('RANK', '0')
    name = Path(sys.argv[0]).name
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the terminal cannot show must not raise an error.
        sys.stdout.reconfigure(errors='backslashreplace')
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        with explain_missing_operators(), _hide_false_alarms():
            yield
    except (Exception, KeyboardInterrupt) as error:
        # Libraries wrap errors in others: mmengine's registries wrap those of
        # classes, and its config wraps even Ctrl-C.
        chain = list(_iter_chain(error))
        if any(isinstance(cause, KeyboardInterrupt) for cause in chain):
            if rank == '0':
                print(f'{name}: interrupted', file=sys.stderr)
            sys.exit(130)
        ours = {__name__.partition('.')[0], '__main__', *packages}
        origin = next((x for x in chain if _is_raised_by(ours, x)), None)
        # What explains an error of mm says more than ours that followed it.
        message = next(filter(None, map(explain, chain)), '')
        if any(getattr(cause, 'errno', None) == ENOSPC for cause in chain):
            message = 'no space is left on the disk: free some, and try again'
        elif (
            not message
            and origin
            and isinstance(error, ImportError | OSError | ValueError)
        ):
            message = f'{origin!s:.2000}'
        if not message:
            raise
        where = f' (rank {rank})' if rank != '0' else ''
        sys.exit(f'{name}{where}: error: {message}')
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _hide_false_alarms() -> Iterator[None]:
    def keep(
        logger: MMLogger, record: logging.LogRecord
    ) -> bool | logging.LogRecord:  # the latter since Python 3.12
        alarm = FALSE_ALARMS.match(record.getMessage())
        return not alarm and logging.Logger.filter(logger, record)

    def log(msg: object, *args: Any, **kwargs: Any) -> None:
        if not FALSE_ALARMS.match(str(msg)):
            print_log(msg, *args, **kwargs)

    MMLogger.filter = keep
    mmengine.logging.print_log = log
    try:
        yield
    finally:
        del MMLogger.filter
        mmengine.logging.print_log = print_log


def _interrupt(*args: object) -> None:
    """Handle Ctrl-C, but not a second one within seconds.

    torchrun repeats the signal, which would interrupt the end. A later one
    counts, since Python loses an exception inside a destructor.
    """
    global _interrupted
    if time.monotonic() > _interrupted + REPEATED:
        _interrupted = time.monotonic()
        raise KeyboardInterrupt


def _iter_chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__context__


def _is_raised_by(packages: set[str], error: BaseException) -> bool:
    """Whether one of the packages raised it, or the standard library there."""
    names = [
        frame.f_globals.get('__name__', '').partition('.')[0]
        for frame, _ in walk_tb(error.__traceback__)
    ]
    callers = [name for name in names if name not in sys.stdlib_module_names]
    return not packages.isdisjoint(callers[-1:])
