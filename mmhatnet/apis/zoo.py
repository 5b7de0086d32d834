"""The model zoo: the models of ``model-index.yml`` by name."""

import os
import tempfile
from copy import deepcopy
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn

from ..engine.checks import iter_datasets
from ..utils.config import name_types, read_config
from ..utils.stack import explain_missing_operators, one_thread_at_a_time
from ..weights.loading import load_weights

CLASSIFICATION = 'Image Classification'
CONFIG_FILES = '.py', '.json', '.yaml', '.yml'


def zoo_root() -> Path:
    """Get the folder of ``model-index.yml`` and ``configs/``."""
    package = Path(__file__).resolve().parents[1]
    return package / '.mim' if (package / '.mim').exists() else package.parent


@cache
def model_entries() -> dict[str, dict]:
    """Read the metafiles: the entry of each model by its name."""
    files = _read_yaml('model-index.yml')['Import']
    models = [model for file in files for model in _read_yaml(file)['Models']]
    return {model['Name']: model for model in models}


def _read_yaml(name: str) -> dict:
    return yaml.safe_load((zoo_root() / name).read_text('utf-8'))


def list_models(
    pattern: str | None = None, task: str | None = None
) -> list[str]:
    """List the names of the models.

    Args:
        pattern (str, optional): Start of the names, with ``*`` for any
            characters. Defaults to None, all names.
        task (str, optional): 'Image Classification', 'Semantic Segmentation',
            'Object Detection' or 'Instance Segmentation', in any case.
            Defaults to None, all tasks.

    Returns:
        list[str]: The names, sorted.

    Raises:
        ValueError: If the task is unknown.
    """
    tasks = {
        name: {result['Task'] for result in entry['Results']}
        for name, entry in model_entries().items()
    }
    known = {each.lower(): each for each in set().union(*tasks.values())}
    if task and task.lower() not in known:
        names = ', '.join(sorted(known.values()))
        raise ValueError(f"no task '{task}': choose from {names}")
    return sorted(
        name
        for name, found in tasks.items()
        if fnmatch(name, f'{pattern or ""}*')
        and (not task or known[task.lower()] in found)
    )


def find_model(name: str) -> dict:
    """Find the entry of a model; ValueError names similar ones."""
    if name not in model_entries():
        similar = get_close_matches(name, model_entries(), 3, 0.3)
        raise ValueError(
            f"no model '{name}' and no config file of this name; similar "
            f'names: {", ".join(similar) or "none"}. mmhatnet.list_models() '
            'lists all names'
        )
    return model_entries()[name]


def load_model_config(model: str | os.PathLike | Config) -> Config:
    """Read the config of a model; a copy of one that is given.

    Args:
        model (str | PathLike | Config): The model's name, a config file, one
            of an installed library ('mmdet::....py'), or a config.

    Raises:
        FileNotFoundError: If the config file does not exist.
        ValueError: If the name is unknown, or a file has no model.
    """
    if isinstance(model, Config):
        cfg = deepcopy(model)
        name_types(cfg)
        return cfg
    if _is_file(model):
        cfg = read_config(model)
        if not isinstance(cfg.get('model'), dict):
            raise ValueError(
                f'{model} has no model: inherit one, for example _base_ = '
                "'mmhatnet::hatnet/hatnet-tiny_8xb128_in1k.py'"
            )
        return cfg
    return read_config(zoo_root() / find_model(str(model))['Config'])


def _is_file(model: str | os.PathLike) -> bool:
    return Path(model).suffix in CONFIG_FILES or '::' in str(model)


def load_backbone_config(model: str | os.PathLike | Config) -> ConfigDict:
    """Read the config of a backbone, which builds under any default scope.

    Args:
        model (str | PathLike | Config): As for :func:`load_model_config`.

    Raises:
        ValueError: If the model has no backbone. And the same errors.
    """
    cfg = load_model_config(model)
    backbone = cfg.get('model', {}).get('backbone')
    if not backbone:
        raise ValueError(f'{model} has no model.backbone')
    scope = cfg.get('default_scope')
    if scope and '.' not in backbone.type:
        backbone.type = f'{scope}.{backbone.type}'
    return backbone


def find_weights(model: str | os.PathLike | Config) -> str:
    """Find the URL of the released weights of a model.

    Args:
        model (str | PathLike | Config): As for :func:`load_model_config`. Only
            models given by name have released weights.

    Raises:
        ValueError: If there are none. The message says what to do.
    """
    reason = 'a config file'
    if not isinstance(model, Config) and not _is_file(model):
        entry = find_model(str(model))
        if 'Weights' in entry:
            return entry['Weights']
        reason = f'{model} has no released weights and'
    raise ValueError(
        f'{reason} needs a checkpoint: train one with tools/train.py, or give '
        'a file, a URL or hatnet://NAME'
    )


@one_thread_at_a_time()
@explain_missing_operators()
def get_model(
    model: str | os.PathLike | Config,
    pretrained: bool | str = False,
    device: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of any task by its name, like mmpretrain's ``get_model``.

    Args:
        model (str | PathLike | Config): As for :func:`load_model_config`.
        pretrained (bool | str): True for the released weights, or a file, a
            URL or ``hatnet://NAME``, read without running code that it may
            contain. Defaults to False, random weights as at the start of a
            training, even if ``init_cfg`` names a checkpoint.
        device (str, optional): The device of the model. Defaults to None, the
            CPU.
        **kwargs: Settings that override the config's model, such as
            ``backbone=dict(grid_sizes=(8, 7, 7))`` for G1.

    Returns:
        nn.Module: The classifier, segmentor or detector, in eval mode, with
        ``cfg`` and ``dataset_meta`` as the libraries' own functions set them.

    Raises:
        FileNotFoundError: If a file does not exist.
        ImportError: If a detector lacks mmcv's operators.
        ValueError: If the name is unknown, the model has no released weights,
            or the weights do not fit. The message names the keys.
    """
    cfg = load_model_config(model)
    cfg.merge_from_dict(dict(model=kwargs))
    checkpoint = find_weights(model) if pretrained is True else pretrained
    meta = dataset_meta(cfg)
    if 'data_preprocessor' in cfg:  # as mmengine's Runner
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        built = revert_sync_batchnorm(MODELS.build(cfg.model))
    built.cfg = built._config = cfg  # the latter for mmpretrain
    built.dataset_meta = meta
    if checkpoint:
        built.dataset_meta.update(load_weights(built, checkpoint))
    else:
        _draw_weights(built)
    return built.to(device or 'cpu').eval()


def _draw_weights(model: nn.Module) -> None:
    """Initialize as mmengine's Runner does, but load nothing."""
    for module in model.modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
        if any('checkpoint' in cfg for cfg in cfgs):
            module.init_cfg = None
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')  # it would print a line for every parameter
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def find_test_dataset(cfg: Config) -> ConfigDict:
    """Find the data set whose pipeline reads images for predictions.

    It is the first one of the loader, without wrappers.

    Args:
        cfg (Config): The config; changed in place: without a
            ``test_dataloader``, for which the libraries' inferencers look, it
            gets its ``val_dataloader``.

    Raises:
        ValueError: If the config has neither.
    """
    for key in ('test_dataloader', 'val_dataloader'):
        loader = cfg.get(key) or {}
        if any(iter_datasets(loader.get('dataset'))):
            cfg.test_dataloader = loader  # a copy
            return next(iter_datasets(cfg.test_dataloader.dataset))
    cfg.pop('test_dataloader', None)
    raise ValueError(
        'the config has no data set in test_dataloader or val_dataloader: '
        'predictions need the pipeline of such a data set'
    )


def dataset_meta(cfg: Config) -> dict:
    """Get ``classes`` and ``palette`` of a config's test data, if known."""
    try:
        dataset = find_test_dataset(cfg)
    except ValueError:
        return {}
    scope = cfg.get('default_scope')
    with DATASETS.switch_scope_and_registry(scope) as registry:
        meta = getattr(registry.get(dataset.type), 'METAINFO', {})
    return {**meta, **dataset.get('metainfo', {})}


@wrapt.when_imported('mmpretrain.apis.model')
def _register_classifiers(module: ModuleType) -> None:
    """Add our classifiers to the models that mmpretrain finds by name."""
    models = [
        model_entries()[name] for name in list_models(task=CLASSIFICATION)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model-index.yml'
        path.write_text(yaml.safe_dump(dict(Models=models)), 'utf-8')
        module.ModelHub.register_model_index(path, config_prefix=zoo_root())


@wrapt.when_imported('timm.models')
def _register_in_timm(module: ModuleType) -> None:
    """Add our classifiers to the models that timm creates by name."""
    from . import timm_models  # noqa: F401
