"""The model zoo: what ``model-index.yml`` lists, by name."""

import os
import tempfile
from copy import deepcopy
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import wrapt
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn

from .config import read_config
from .weights.loading import load_weights

CLASSIFICATION = 'Image Classification'


def zoo_root() -> Path:
    """The folder of ``model-index.yml`` and ``configs/``.

    Returns:
        Path: ``.mim`` in the package or, where mmhatnet is not installed, the
        repository.
    """
    package = Path(__file__).resolve().parent
    mim = package / '.mim'
    return mim if mim.exists() else package.parent


@cache
def model_entries() -> dict[str, dict]:
    """Read the metafiles.

    Returns:
        dict[str, dict]: What they say of each model, by its name.
    """
    index = yaml.safe_load((zoo_root() / 'model-index.yml').read_text())
    found = {}
    for metafile in index['Import']:
        content = yaml.safe_load((zoo_root() / metafile).read_text())
        found.update({model['Name']: model for model in content['Models']})
    return found


def list_models(
    pattern: str | None = None, task: str | None = None
) -> list[str]:
    """List the names of the models.

    Args:
        pattern (str, optional): What a name has to match, with ``*`` for
            anything; a ``*`` at the end is implied, as in mmpretrain.
            Defaults to None, all.
        task (str, optional): 'Image Classification', 'Semantic Segmentation',
            'Object Detection' or 'Instance Segmentation', in any case.
            Defaults to None, all.

    Returns:
        list[str]: The names, sorted.

    Raises:
        ValueError: If there is no such task.
    """
    tasks = {
        name: {result['Task'].lower() for result in entry['Results']}
        for name, entry in model_entries().items()
    }
    if task and task.lower() not in set().union(*tasks.values()):
        known = {
            r['Task'] for e in model_entries().values() for r in e['Results']
        }
        raise ValueError(
            f"no task '{task}': choose from {', '.join(sorted(known))}"
        )
    return sorted(
        name
        for name in tasks
        if (not pattern or fnmatch(name, pattern + '*'))
        and (not task or task.lower() in tasks[name])
    )


def find_model(name: str) -> dict:
    """Look a model up.

    Args:
        name (str): Its name.

    Returns:
        dict: What its metafile says of it.

    Raises:
        ValueError: If there is no such model. The message has similar names.
    """
    if name not in model_entries():
        similar = get_close_matches(name, model_entries(), 3, 0.3)
        raise ValueError(
            f"no model '{name}' and no config file of that name; similar "
            f'names: {", ".join(similar) or "none"}. All of them: '
            'mmhatnet.list_models()'
        )
    return model_entries()[name]


def load_model_config(model: str | os.PathLike | Config) -> Config:
    """Read the config of a model.

    Args:
        model (str | PathLike | Config): The model's name, a config file (also
            of an installed library, 'mmdet::....py'), or a config.

    Returns:
        Config: The config, or a copy of it.

    Raises:
        FileNotFoundError: If there is no such config file.
        ValueError: If there is no model of that name.
    """
    if isinstance(model, Config):
        return deepcopy(model)
    if Path(model).suffix == '.py':
        return read_config(model)
    return read_config(zoo_root() / find_model(str(model))['Config'])


def load_backbone_config(model: str | os.PathLike | Config) -> ConfigDict:
    """Read the config of a model's backbone.

    Args:
        model (str | PathLike | Config): As for :func:`load_model_config`.

    Returns:
        ConfigDict: To be built under any default scope, as its type names the
        library.

    Raises:
        FileNotFoundError: If there is no such config file.
        ValueError: If there is no model of that name, or it has no backbone.
    """
    cfg = load_model_config(model)
    if 'backbone' not in cfg.get('model', {}):
        raise ValueError(f'{model} has no model.backbone')
    backbone = cfg.model.backbone
    if '.' not in backbone.type:
        backbone.type = f'{cfg.default_scope}.{backbone.type}'
    return backbone


def find_weights(model: str | os.PathLike | Config) -> str:
    """Find the released weights of a model.

    Args:
        model (str | PathLike | Config): The model's name, a config file, or a
            config; only by its name weights are found.

    Returns:
        str: Their URL.

    Raises:
        ValueError: If there are none. The message says what to do.
    """
    if isinstance(model, Config) or Path(model).suffix == '.py':
        what = 'a config file'
    elif 'Weights' in find_model(str(model)):
        return find_model(str(model))['Weights']
    else:
        what = f'{model}, of which no weights have been released,'
    raise ValueError(
        f'{what} needs a checkpoint: train one with tools/train.py, or give a '
        'file, a URL or, for a classifier, hatnet://NAME'
    )


def get_model(
    model: str | os.PathLike | Config,
    pretrained: bool | str = False,
    device: str | None = None,
    **kwargs,
) -> nn.Module:
    """Build a model of any task by its name, as mmpretrain's does.

    Args:
        model (str | PathLike | Config): The model's name, a config file, or a
            config.
        pretrained (bool | str): True for the released weights, or a file, a
            URL or ``hatnet://NAME``; it is read without executing what may be
            in it. Defaults to False, random weights.
        device (str, optional): Where to put it. Defaults to None, the CPU.
        **kwargs: Settings to override in the config's model, such as
            ``backbone=dict(grid_sizes=(8, 7, 7))`` for G1.

    Returns:
        nn.Module: The classifier, segmentor or detector, in eval mode, with
        ``dataset_meta`` as the libraries' own functions set it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such model, there are no weights of it, or
            the weights do not fit. The message names the keys.
    """
    cfg = load_model_config(model)
    cfg.merge_from_dict(dict(model=kwargs))
    checkpoint = find_weights(model) if pretrained is True else pretrained
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.apis import get_model as build

        built = build(cfg)
    else:
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            built = revert_sync_batchnorm(MODELS.build(cfg.model))
        built.cfg = cfg
    built.dataset_meta = dataset_meta(cfg)
    if checkpoint:
        built.dataset_meta.update(load_weights(built, checkpoint))
    return built.to(device or 'cpu').eval()


def dataset_meta(cfg: Config) -> dict:
    """Get what a config's test data set says of itself.

    Args:
        cfg (Config): The config.

    Returns:
        dict: ``classes`` and, for dense prediction, ``palette``, if it says.
    """
    dataset = cfg.test_dataloader.dataset
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        meta = getattr(registry.get(dataset.type), 'METAINFO', {})
    return {**meta, **dataset.get('metainfo', {})}


@wrapt.when_imported('mmpretrain.apis.model')
def _register_classifiers(module) -> None:
    """Let mmpretrain's functions and inferencers find our classifiers."""
    models = [
        model_entries()[name] for name in list_models(task=CLASSIFICATION)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model-index.yml'
        path.write_text(yaml.safe_dump(dict(Models=models)))
        module.ModelHub.register_model_index(path, config_prefix=zoo_root())
