"""From the authors' checkpoints to ours, and the loading of both.

The authors' files hold the state dict bare or under ``model`` or
``state_dict``, with or without a ``module.`` prefix. Ours is mm's layout of a
classifier: ``backbone.*`` and ``head.fc.*``.
"""

import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .download import PIN, download, sha256, split_pin, verify

RELEASE_URL = 'https://github.com/yun-liu/HAT-Net/releases/download/v2.0'
RELEASES = {
    'tiny': 'HAT-Net_Tiny.pth',
    'small': 'HAT-Net_Small.pth',
    'medium': 'HAT-Net_Medium.pth',
    'large': 'HAT-Net_Large.pth',
}

URLS = ('http://', 'https://', 'file://')

# Official name -> ours, applied in this order to the start of a key (left
# side without a dot in front) or to its middle.
RENAMES = {
    'patch_embed.': 'backbone.stem.',
    'ds2.conv.': 'backbone.downsamples.0.0.',
    'ds2.norm.': 'backbone.downsamples.0.1.',
    'ds3.conv.': 'backbone.downsamples.1.0.',
    'ds3.norm.': 'backbone.downsamples.1.1.',
    'ds4.conv.': 'backbone.downsamples.2.0.',
    'ds4.norm.': 'backbone.downsamples.2.1.',
    'blocks.': 'backbone.stages.',
    'classifier.1.': 'head.fc.',
    '.attn.ds_norm.': '.attn.pool_norm.',
    '.conv.conv1.0.': '.mlp.norm1.',
    '.conv.conv1.1.': '.mlp.fc1.',
    '.conv.conv2.0.': '.mlp.dw_conv.',
    '.conv.conv3.0.': '.mlp.fc2.',
    '.conv.conv3.1.': '.mlp.norm2.',
}
# In every official file, and used by no forward pass.
UNUSED = re.compile(r'^blocks\.\d+\.\d+\.attn\.proj_norm\.(weight|bias)$')
_OFFICIAL = re.compile(r'(patch_embed\.[013]|blocks\.\d+\.\d+)\.')
BACKBONE = 'backbone.'
HEAD = ('head.fc.weight', 'head.fc.bias')
OFFICIAL_HEAD = ('classifier.1.weight', 'classifier.1.bias')


class _Inert:
    """Stands for an object of a checkpoint that is no tensor."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass


class _TensorsOnly:
    """A pickle module for :func:`torch.load` that runs nothing from a file.

    It makes tensors and plain containers; every other object comes out as an
    :class:`_Inert`. torch's own ``weights_only`` refuses a file with any such
    object, as the training checkpoints of mmengine and DeiT's scripts are.
    """

    class Unpickler(pickle.Unpickler):
        allowed = {  # noqa: RUF012
            ('collections', 'OrderedDict'),
            ('torch', 'Size'),
            ('torch', 'device'),
            ('torch._utils', '_rebuild_parameter'),
            ('torch._utils', '_rebuild_tensor_v2'),
        }

        def find_class(self, module: str, name: str) -> object:
            if (module, name) in self.allowed or (
                module == 'torch'
                and (
                    name.endswith('Storage')
                    or isinstance(getattr(torch, name, None), torch.dtype)
                )
            ):
                return super().find_class(module, name)
            return _Inert

    @classmethod
    def load(cls, file, **kwargs) -> object:
        return cls.Unpickler(file, **kwargs).load()


def read(
    filename: str | os.PathLike, map_location: str | torch.device = 'cpu'
) -> dict:
    """Read a checkpoint without running code that it may contain.

    Args:
        filename (str | PathLike): A file, an http(s) URL (kept in torch's hub
            cache) or ``hatnet://<arch>``, with ``#sha256=...`` behind it to
            have the file's hash verified. Other schemes, such as ``s3://``,
            are left to mmengine, and so is their safety.
        map_location (str | torch.device): As for ``torch.load``. Defaults to
            'cpu'.

    Returns:
        dict: What the file holds, with placeholders for what is no tensor.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or not the one with that hash.
    """
    location, pin = split_pin(os.fspath(filename))
    if '://' in location and not location.startswith(URLS):
        return CheckpointLoader.load_checkpoint(str(filename), map_location)
    path = locate(location, pin)
    try:
        try:
            content = torch.load(
                path, map_location=map_location, weights_only=True
            )
        except pickle.UnpicklingError:
            content = torch.load(
                path,
                map_location=map_location,
                pickle_module=_TensorsOnly,
                weights_only=False,
            )
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f'{path} is not a checkpoint of torch, or is damaged: {error}'
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds no state dict')
    return content


def locate(location: str, pin: str | None = None) -> Path:
    """Find the file at a path or URL, and download it if need be.

    Args:
        location (str): A path or a URL; ``$MMHATNET_RELEASE_URL`` stands in
            for that of the authors' release.
        pin (str, optional): SHA-256 that the file must have. Defaults to None.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be downloaded.
        ValueError: If it has another hash.
    """
    url = location
    if location.startswith(RELEASE_URL):
        mirror = os.environ.get('MMHATNET_RELEASE_URL', RELEASE_URL)
        url = location.replace(RELEASE_URL, mirror.rstrip('/'))
    if url.startswith(('http://', 'https://')):
        return download(location, pin, url)
    path = Path(url).expanduser()
    if url.startswith('file://'):
        path = Path(url2pathname(urlsplit(url).path))
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    verify(path, pin)
    return path


def save(content: dict, folder: str | os.PathLike, name: str) -> Path:
    """Save a checkpoint with a part of its hash in its name.

    Args:
        content (dict): What to save.
        folder (str | PathLike): Where; is made if need be.
        name (str): Start of the file's name.

    Returns:
        Path: ``<folder>/<name>-<first 8 digits of the SHA-256>.pth``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'{name}.part'
    try:
        torch.save(content, part)
        return part.replace(folder / f'{name}-{sha256(part)[:8]}.pth')
    finally:
        part.unlink(missing_ok=True)


def strip(checkpoint: Mapping) -> dict:
    """Leave in a checkpoint what others need to use the model.

    Args:
        checkpoint (Mapping): Of a training, as from :func:`read`.

    Returns:
        dict: ``state_dict`` and, in ``meta``, what is plain data, such as the
        config and the classes; no optimizer and no logs.
    """

    def plain(value: object) -> bool:
        if isinstance(value, Mapping):
            return all(map(plain, [*value.keys(), *value.values()]))
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, str | int | float)

    meta = checkpoint.get('meta') or {}
    return dict(
        meta={key: value for key, value in meta.items() if plain(value)},
        state_dict=unwrap(checkpoint),
    )


def unwrap(checkpoint: Mapping) -> dict[str, Tensor]:
    """Get the state dict out of any layout.

    Args:
        checkpoint (Mapping): A state dict, bare or under ``state_dict`` or
            ``model``, with or without a ``module.`` prefix.

    Returns:
        dict[str, Tensor]: The tensors in it.
    """
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    return {
        key.removeprefix('module.'): value
        for key, value in checkpoint.items()
        if isinstance(value, Tensor)
    }


def is_official(state_dict: Iterable[str]) -> bool:
    """Whether keys are named as in the authors' code."""
    return any(_OFFICIAL.match(key) for key in state_dict)


def convert_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours.

    Args:
        state_dict (Mapping[str, Tensor]): As from :func:`unwrap`.

    Returns:
        dict[str, Tensor]: With ``backbone.*`` and ``head.fc.*`` keys and
        without the unused ``proj_norm``. Unknown keys keep their names.
    """
    converted = {}
    for key, value in state_dict.items():
        if UNUSED.match(key):
            continue
        for official, ours in RENAMES.items():
            if official.startswith('.'):
                key = key.replace(official, ours)
            elif key.startswith(official):
                key = ours + key.removeprefix(official)
        converted[key] = value
    return converted


def check(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
) -> None:
    """Compare a state dict with what a model needs.

    Args:
        found (Mapping[str, Tensor]): The state dict.
        expected (Mapping[str, Tensor]): That of the model.
        source (str): Where ``found`` comes from, for the message.

    Raises:
        ValueError: If keys are missing, unexpected or of another shape. The
            message names them.
    """

    def listing(problem: str, keys: list[str]) -> str:
        more = f' and {len(keys) - 4} more' if len(keys) > 4 else ''
        return f'{problem}: {", ".join(keys[:4])}{more}' if keys else ''

    problems = [
        listing('missing', [key for key in expected if key not in found]),
        listing('unexpected', [key for key in found if key not in expected]),
        listing(
            'wrong shape',
            [
                f'{key} {tuple(found[key].shape)} instead of '
                f'{tuple(value.shape)}'
                for key, value in expected.items()
                if key in found and found[key].shape != value.shape
            ],
        ),
    ]
    if any(problems):
        matched = len(found.keys() & expected.keys())
        raise ValueError(
            f'{source} does not fit the model ({matched} of '
            f'{len(expected)} keys match): '
            + '; '.join(problem for problem in problems if problem)
        )


def to_backbone(
    checkpoint: Mapping,
    model: nn.Module,
    source: str,
    prefix: str | None = None,
) -> dict[str, Tensor]:
    """Get the weights for a bare HATNet out of any checkpoint.

    Args:
        checkpoint (Mapping): Of the authors, of mm or of a bare HATNet.
        model (HATNet): The backbone.
        source (str): Where it comes from, for the message.
        prefix (str, optional): Prefix of the backbone's keys. Defaults to
            None, 'backbone.' where there are such keys and else none.

    Returns:
        dict[str, Tensor]: The state dict of ``model``.

    Raises:
        ValueError: If the weights do not fit, but for norms on the outputs,
            which keep what they have, and stages that are not built.
    """
    state_dict = unwrap(checkpoint)
    if is_official(state_dict):
        state_dict = {
            key.removeprefix(BACKBONE): value
            for key, value in convert_official(state_dict).items()
            if key not in HEAD
        }
    else:
        if prefix is None:
            prefix = BACKBONE if _has(state_dict, BACKBONE) else ''
        elif prefix:
            prefix = prefix.rstrip('.') + '.'
            if not _has(state_dict, prefix):
                raise ValueError(
                    f"{source} has no keys '{prefix}*', but "
                    f'{", ".join(list(state_dict)[:4])} and so on'
                )
        state_dict = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
    expected = model.state_dict()
    found = {
        **{key: expected[key] for key in expected if model.is_optional(key)},
        **{
            key: value
            for key, value in state_dict.items()
            if key in expected or not model.is_optional(key)
        },
    }
    check(found, expected, source)
    return found


def load_backbone(
    model: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: str | torch.device = 'cpu',
) -> None:
    """Load a checkpoint into a bare HATNet.

    This is what ``init_cfg=dict(type='Pretrained', checkpoint=...)`` does.

    Args:
        model (HATNet): The backbone.
        checkpoint (str): A file, a URL or ``'hatnet://<arch>'``, of the
            authors or of mm.
        prefix (str, optional): Prefix of the backbone's keys in a checkpoint
            of mm. Defaults to None, 'backbone.' where there are such keys.
        map_location (str | torch.device): As for ``torch.load``. Defaults to
            'cpu'.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit; see :func:`to_backbone`.
    """
    content = read(checkpoint, map_location)
    model.load_state_dict(to_backbone(content, model, str(checkpoint), prefix))


def load_weights(model: nn.Module, checkpoint: str) -> dict:
    """Load a checkpoint into a whole model, for inference.

    Args:
        model (nn.Module): The classifier, segmentor or detector.
        checkpoint (str): A file, a URL or ``'hatnet://<arch>'``, of mm or, for
            a classifier, of the authors.

    Returns:
        dict: What the checkpoint says of the data set, such as ``classes``;
        empty if it says nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit. The message names the keys.
    """
    content = read(checkpoint)
    state_dict = unwrap(content)
    if is_official(state_dict):
        state_dict = convert_official(state_dict)
    check(state_dict, model.state_dict(), str(checkpoint))
    model.load_state_dict(state_dict)
    meta = strip(content)['meta'].get('dataset_meta') or {}
    return {key.lower(): value for key, value in meta.items()}


def adapt_backbone(state_dict: dict, model: nn.Module, prefix: str) -> None:
    """Make a state dict that is being loaded into a HATNet fit, in place.

    Where nothing matches or shapes differ, mmengine would only log it.

    Args:
        state_dict (dict): Converted if none of its keys is the model's, else
            only the shapes are compared; it may be partial.
        model (HATNet): The backbone.
        prefix (str): Prefix of the backbone's keys in ``state_dict``.

    Raises:
        ValueError: If the weights do not fit.
    """
    expected = model.state_dict()
    found = {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
    matched = [key for key in expected if key in found]
    if found and not matched:
        weights = to_backbone(found, model, 'the checkpoint')
        for key in found:
            del state_dict[prefix + key]
        state_dict.update(
            {prefix + key: value for key, value in weights.items()}
        )
    else:
        check(
            {key: found[key] for key in matched},
            {key: expected[key] for key in matched},
            'the checkpoint',
        )


def adapt_classifier(state_dict: dict, model: nn.Module) -> None:
    """Make a state dict that is being loaded into a classifier fit, in place.

    Args:
        state_dict (dict): Left alone if it is in mm's layout, or has nothing
            but parts of a neck or a head.
        model (HATNet): The classifier's backbone.

    Raises:
        ValueError: If the weights do not fit.
    """
    if _has(state_dict, BACKBONE) or all(
        key.startswith(('neck.', 'head.')) for key in state_dict
    ):
        return
    found = convert_official(unwrap(state_dict))
    expected = {
        **{BACKBONE + key: value for key, value in model.state_dict().items()},
        # The head is compared by its own class.
        **{key: found.get(key, torch.empty(0)) for key in HEAD},
    }
    check(found, expected, 'the checkpoint')
    state_dict.clear()
    state_dict.update(found)


def convert_classifier(
    checkpoint: Mapping, source: str, arch: str | None = None
) -> tuple[str, dict[str, Tensor]]:
    """Convert a checkpoint of the authors, which has to be complete.

    Args:
        checkpoint (Mapping): As from :func:`read`.
        source (str): Where it comes from, for the message.
        arch (str, optional): 'tiny', 'small', 'medium' or 'large'. Defaults
            to None, the one that has the file's numbers of blocks.

    Returns:
        tuple[str, dict[str, Tensor]]: The arch, and the state dict of a
        classifier in mm's layout.

    Raises:
        ValueError: If a key is missing, unexpected or of another shape, or a
            value is not finite. The message names it.
    """
    from .models.hatnet import HATNet

    state_dict = unwrap(checkpoint)
    if not is_official(state_dict):
        raise ValueError(
            f"{source} is not in the layout of the authors' classifiers: it "
            f'has {", ".join(list(state_dict)[:3]) or "no tensors"}...'
        )
    if arch is None:
        blocks = {re.match(r'blocks\.(\d+)\.\d+\.', k) for k in state_dict}
        blocks = sorted({match.group() for match in blocks if match})
        depths = tuple(
            sum(block.startswith(f'blocks.{stage}.') for block in blocks)
            for stage in range(4)
        )
        arch = next(
            (a for a in RELEASES if HATNet.arch_zoo[a]['depths'] == depths),
            None,
        )
        if arch is None:
            raise ValueError(
                f'{source} has {depths} blocks, like none of '
                f'{", ".join(RELEASES)}'
            )
    with torch.device('meta'):
        model = HATNet(arch, out_indices=-1)
    try:
        adapt_classifier(state_dict, model)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    for key, value in state_dict.items():
        if not value.isfinite().all():
            raise ValueError(f'{source}: {key} has values that are not finite')
    return arch, state_dict


def convert_to_official(
    checkpoint: Mapping, source: str
) -> tuple[str, dict[str, Tensor]]:
    """Convert a checkpoint of mm for the authors' code.

    Args:
        checkpoint (Mapping): Of a classifier, or of any model with a HATNet,
            of which only the backbone is taken.
        source (str): Where it comes from, for the message.

    Returns:
        tuple[str, dict[str, Tensor]]: The arch, and a state dict with the
        authors' keys; ``proj_norm``, which no forward pass uses, is at
        identity.

    Raises:
        ValueError: As in :func:`convert_classifier`.
    """
    state_dict = unwrap(checkpoint)
    prefix = '' if _has(state_dict, BACKBONE) else BACKBONE
    official = {}
    for key, value in state_dict.items():
        key = prefix + key
        if key not in HEAD and not key.startswith(BACKBONE):
            continue  # a neck, or the head of a segmentor or detector
        for theirs, ours in RENAMES.items():
            if theirs.startswith('.'):
                key = key.replace(ours, theirs)
            elif key.startswith(ours):
                key = theirs + key.removeprefix(ours)
        official[key] = value
    # What comes back has to be the model that went in.
    head = {theirs: torch.empty(0) for theirs in OFFICIAL_HEAD}
    arch, _ = convert_classifier({**head, **official}, source)
    for key, value in list(official.items()):
        if key.endswith('.attn.proj.bias'):
            name = key.removesuffix('proj.bias') + 'proj_norm.'
            official[name + 'weight'] = torch.ones_like(value)
            official[name + 'bias'] = torch.zeros_like(value)
    return arch, official


@CheckpointLoader.register_scheme('hatnet://', force=True)
def load_from_hatnet(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Load the authors' ImageNet weights by name, for any of mm's loaders.

    The file is downloaded to torch's hub cache, from the authors' release or
    from ``$MMHATNET_RELEASE_URL``, where the same file names have to be.

    Args:
        filename (str): ``hatnet://`` and 'tiny', 'small', 'medium' or
            'large', or their first letter; ``#sha256=...`` behind it has the
            file's hash verified.
        map_location (str | torch.device, optional): As for ``torch.load``.
            Defaults to None, 'cpu'.

    Returns:
        dict: ``state_dict`` of a classifier in mm's layout.

    Raises:
        OSError: If the file cannot be downloaded.
        ValueError: If the name is unknown or the file is not that model.
    """
    location, pin = split_pin(filename)
    name = location.removeprefix('hatnet://')
    arch = next((arch for arch in RELEASES if name in (arch, arch[0])), None)
    if arch is None:
        raise ValueError(
            f"unknown checkpoint '{location}': choose from "
            + ', '.join(f'hatnet://{arch}' for arch in RELEASES)
        )
    path = locate(f'{RELEASE_URL}/{RELEASES[arch]}', pin)
    try:
        content = read(path, map_location or 'cpu')
        _, state_dict = convert_classifier(content, str(path), arch)
    except ValueError as error:
        raise ValueError(
            f'{error}. Delete {path} and {path.name}.sha256 to download it '
            'again'
        ) from error
    return dict(state_dict=state_dict)


@CheckpointLoader.register_scheme(f'{RELEASE_URL}/', force=True)
def load_from_release(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Load the authors' weights by the URLs that the metafiles have."""
    location, mark, pin = filename.partition(PIN)
    names = {f'{RELEASE_URL}/{RELEASES[arch]}': arch for arch in RELEASES}
    name = names.get(location, location)
    return load_from_hatnet(f'hatnet://{name}{mark}{pin}', map_location)


def _has(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)
