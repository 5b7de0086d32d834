"""Reading configs, which may inherit ours as ``mmhatnet::...``."""

import difflib
import functools
import inspect
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from traceback import walk_tb
from types import FunctionType
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.hub import get_config
from mmengine.registry import Registry, root
from mmengine.runner import FlexibleRunner, Runner
from mmengine.utils import get_object_from_string

from .stack import FAMILIES, REQUIRED, one_thread_at_a_time

# Keys that have a meaning besides the arguments of mmengine's Runner.
MORE_KEYS = (
    'auto_scale_lr',
    'check_data',
    'check_loss',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
)
# These are close to names of variables, such as test_pipeline.
TTA_KEYS = 'tta_model', 'tta_pipeline'
RUNNERS = Runner, FlexibleRunner


def read_config(filename: str | os.PathLike) -> Config:
    """Read a config that may inherit ours as ``_base_ = 'mmhatnet::...'``.

    Args:
        filename (str | PathLike): A config file, or a config of an installed
            library written as in ``_base_``, such as
            'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If the file, or one that it inherits, does not
            exist.
        ValueError: If one of them is not valid Python. The message names the
            file and the line.
    """
    named = '::' in str(filename)
    if not named and not Path(filename).is_file():
        raise FileNotFoundError(
            f'no config at {filename}: a path, or a name as in '
            'mmhatnet::hatnet/hatnet-tiny_8xb128_in1k.py, is needed'
        )
    try:
        cfg = get_config(filename) if named else Config.fromfile(filename)
    except (AssertionError, OSError) as error:
        *_, (frame, _) = walk_tb(error.__traceback__)
        if not frame.f_globals.get('__name__', '').startswith('mmengine.'):
            raise  # of a config, which is a program
        # Only an installation and a clone that can be written to have links.
        linked = Path(__file__).parents[1].joinpath('.mim').exists()
        remedy = '' if linked else '; in the clone, run: pip install -e .'
        raise FileNotFoundError(
            f'cannot read {filename}: {error!s:.500}{remedy}'
        ) from error
    except SyntaxError as error:
        raise ValueError(
            f'cannot read {_find_source(error) or filename}: line '
            f'{error.lineno}: {error.msg}'
        ) from error
    if named:
        _drop_scope(cfg)
    name_types(cfg)
    return cfg


def _find_source(error: SyntaxError) -> str | None:
    """The file of an error, for which mmengine writes '<unknown>'."""
    if error.filename and os.path.isfile(error.filename):
        return error.filename
    places = [
        frame.f_locals.get('filename')
        for frame, _ in walk_tb(error.__traceback__)
        if frame.f_globals.get('__name__', '').startswith('mmengine.config')
    ]
    place = next(filter(None, reversed(places)), None)
    return place and os.path.normpath(place)


def name_types(cfg: Config) -> None:
    """Write classes as names, so that all other code sees only names.

    Configs in pure Python have ``type=RetinaNet``. mm builds this, but its
    inferencers and hooks, like ours, compare types with names.

    Args:
        cfg (Config): The config; changed in place. Without a
            ``default_scope``, it gets the library of the model's class.
    """
    found = list(_iter_classes(list(cfg.values())))
    for part, kind in found:
        if part is cfg.get('model') and not cfg.get('default_scope'):
            cfg.default_scope = _find_library(kind)
    names: dict[object, tuple[Registry, str]] = {}
    for registry in vars(root).values() if found else ():
        if isinstance(registry, Registry):
            _collect_names(registry, names)
    for part, kind in found:
        part['type'] = _name_type(kind, names, cfg.get('default_scope'))


def iter_dicts(cfg: object) -> Iterator[dict]:
    """Iterate over the dicts inside a part of a config."""
    if isinstance(cfg, dict):
        yield cfg
        cfg = list(cfg.values())
    for part in cfg if isinstance(cfg, list | tuple) else ():
        yield from iter_dicts(part)


def _iter_classes(cfg: object) -> Iterator[tuple[dict, type | FunctionType]]:
    """Iterate over the parts of a config with a class or function as type."""
    for part in iter_dicts(cfg):
        kind = part.get('type')
        if isinstance(kind, LazyAttr | LazyObject):
            kind = kind.build()
        elif isinstance(kind, str) and kind.count('.') > 1:
            # mmengine dumps classes like this.
            kind = get_object_from_string(kind)
        if isinstance(kind, type | FunctionType):
            yield part, kind


def _find_library(kind: type | FunctionType) -> str | None:
    """The library of a class, or of what it inherits from."""
    for base in getattr(kind, '__mro__', ()):
        library = base.__module__.partition('.')[0]
        if library in FAMILIES['onedl'] and library not in REQUIRED:
            return library
    return None


def _collect_names(
    registry: Registry, names: dict[object, tuple[Registry, str]]
) -> None:
    """Add what a registry and its children hold to ``names``."""
    for name, kind in registry.module_dict.items():
        names.setdefault(kind, (registry, name))
    for child in registry.children.values():
        _collect_names(child, names)


def _name_type(
    kind: type | FunctionType,
    names: dict[object, tuple[Registry, str]],
    scope: str | None,
) -> str:
    if kind.__module__ == 'mmcv.ops.nms':
        return kind.__name__  # mmcv evaluates it there
    if kind not in names:
        return f'{kind.__module__}.{kind.__qualname__}'
    registry, name = names[kind]
    with registry.root.switch_scope_and_registry(scope) as current:
        known = current.get(name) is kind
    return name if known else f'{registry.scope}.{name}'


def support_inheritance() -> None:
    """Let ``Config.fromfile`` read what :func:`read_config` reads.

    The libraries' functions, such as ``init_model``, read configs by it.
    """
    fromfile = Config.fromfile

    @one_thread_at_a_time()
    @functools.wraps(fromfile)
    def read(*args: Any, **kwargs: Any) -> Config:
        cfg = fromfile(*args, **kwargs)
        _drop_scope(cfg)
        return cfg

    Config.fromfile = staticmethod(read)


def check_keys(cfg: Config, options: Iterable[str] = ()) -> None:
    """Find misspelt keys at the top of a config, which mmengine ignores.

    A config may have other keys, such as variables, which it does not use.

    Args:
        cfg (Config): The config.
        options (Iterable[str]): Keys that were set after the config file was
            read, such as 'model.backbone.arch'. Defaults to none.

    Raises:
        ValueError: If a key resembles one that has a meaning, or an option has
            no effect.
    """
    known = {*MORE_KEYS}.union(
        *(inspect.signature(kind).parameters for kind in RUNNERS)
    )
    for key in cfg:
        near = difflib.get_close_matches(key, known, 1, 0.85)
        # A variable can be named after a key, such as model2 or _model.
        if near and key not in known and near[0] not in key:
            raise ValueError(
                f"the config has the key '{key}': is '{near[0]}' meant?"
            )
    for option in options:
        if option.partition('.')[0] not in known.union(TTA_KEYS):
            raise ValueError(
                f"'{option}' changes nothing: it is a variable of the config "
                'file, not a setting'
            )


def _drop_scope(cfg: Config) -> None:
    """Remove mmhatnet's scope, so that ``default_scope`` applies.

    mmengine gives everything inherited from 'mmhatnet::' the scope mmhatnet,
    whose registries hold no data sets or hooks of the libraries.
    """
    for part in iter_dicts(list(cfg.values())):
        if part.get('_scope_') == 'mmhatnet':
            del part['_scope_']
