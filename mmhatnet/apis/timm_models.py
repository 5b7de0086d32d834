"""HAT-Net as a model of timm, such as ``timm.create_model('hatnet_small')``.

Importing mmhatnet makes timm import this module, if it is installed.
"""

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from timm.layers import ClassifierHead
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..models import HATNet
from ..models.archs import check_plain, is_integer
from ..models.initialization import draw_weights
from ..weights.files import read_checkpoint
from ..weights.loading import STEM, check_weights, to_mm
from ..weights.official import BACKBONE, HEAD, RELEASE_URL
from ..weights.releases import RELEASES, load_from_hatnet

# The keys of timm's pretrained_cfg that name weights.
SOURCES = 'file', 'hf_hub_id', 'source', 'state_dict', 'url'
MOST_CLASSES = 2**17  # more, in an untrusted folder, exhaust the memory
# The names of the weights in timm's folders.
FILES = 'model.safetensors', 'pytorch_model.bin', 'pytorch_model.pth'


class HATNetClassifier(nn.Module):
    """A classifier with the interface of timm and the keys of mmpretrain.

    Args:
        arch (str): As in :class:`~mmhatnet.models.HATNet`, like
            ``drop_path_rate``, ``grid_sizes`` (G1) and ``ds_ratios`` (G2),
            which default to those for 224x224 images.
        in_chans (int): Channels of the images. Defaults to 3.
        num_classes (int): Number of classes; 0 returns pooled features.
            Defaults to 1000.
        global_pool (str): One of timm's poolings; '' returns the map.
            Defaults to 'avg'.
        img_size (object): Has no effect, since any size works.
        drop_rate (float): Dropout before the last layer. Defaults to 0.
        output_stride (int, optional): 32 or None. Defaults to None.
        **kwargs: Other arguments of the backbone. Norms and activations must
            be classes or the names of well-known ones, because timm may have
            read them from an untrusted folder.

    Raises:
        ValueError: If an argument is unknown or illegal.
    """

    def __init__(
        self,
        arch: str,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        img_size: object = None,  # noqa: ARG002
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        grid_sizes: Sequence[int] = (8, 7, 7),
        ds_ratios: Sequence[int] | str = (8, 4, 2),
        output_stride: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        kwargs.update(in_channels=in_chans, drop_path_rate=drop_path_rate)
        check_plain(kwargs, signature(HATNet).parameters)
        if not is_integer(num_classes) or not 0 <= num_classes <= MOST_CLASSES:
            raise ValueError(
                f'num_classes is an integer from 0 to {MOST_CLASSES}, not '
                f'{num_classes!r:.60}'
            )
        kwargs.update(grid_sizes=grid_sizes, ds_ratios=ds_ratios)
        self.backbone = HATNet(arch, **kwargs)
        if output_stride not in (None, self.backbone.stride):
            raise ValueError(
                f'HATNet has no output_stride={output_stride}: use '
                f'{self.backbone.stride}, or a decoder that takes it'
            )
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.backbone.embed_dims[
            -1
        ]
        self.feature_info = [
            dict(
                num_chs=channels,
                reduction=self.backbone.stem_stride * 2**i,
                module=f'backbone.stages.{i}',
            )
            for i, channels in enumerate(self.backbone.embed_dims)
        ]
        self.head = ClassifierHead(
            self.num_features, num_classes, global_pool, drop_rate
        )
        draw_weights(self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the map of the last stage, (N, C, h, w)."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the map, and classify unless ``pre_logits``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,  # noqa: ARG002 (there is none at the end)
        stop_early: bool = False,  # noqa: ARG002 (only costs time)
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the maps of stages, and that of the last one, as timm does.

        Raises:
            ValueError: If ``output_fmt`` is not 'NCHW'.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"the maps are 'NCHW', not '{output_fmt}'")
        maps = self.backbone(x)
        found = [maps[i] for i in feature_take_indices(len(maps), indices)[0]]
        return found if intermediates_only else (maps[-1], found)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,  # noqa: ARG002
        prune_head: bool = True,
    ) -> list[int]:
        """Remove what :meth:`forward_intermediates` does not need."""
        backbone = self.backbone
        taken, last = feature_take_indices(len(backbone.stages), indices)
        backbone.stages = backbone.stages[: last + 1]
        backbone.downsamples = backbone.downsamples[:last]
        backbone.out_indices = tuple(range(last + 1))
        if prune_head:
            self.reset_classifier(0, '')
        return taken

    def get_classifier(self) -> nn.Module:
        """Get the last layer."""
        return self.head.fc

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Make a new last layer."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        draw_weights(self.head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping maps."""
        for stage in self.backbone.stages:
            for block in stage:
                block.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Name the layers, for a learning rate that depends on them."""
        stages = r'^backbone\.stages\.(\d+)'
        return dict(
            stem=r'^backbone\.stem',
            blocks=[
                (stages if coarse else stages + r'\.(\d+)', None),
                # After the last block of a stage.
                (r'^backbone\.downsamples\.(\d+)', (99,)),
            ],
        )


def _to_mm(checkpoint: Mapping, model: nn.Module) -> dict[str, Tensor]:
    """Give a checkpoint of the authors or of mm the keys of the model.

    timm itself adapts the channels of the images, and the number of classes.
    """
    weights, _ = to_mm(checkpoint)
    expected, found = model.state_dict(), dict(weights)
    cfg = model.pretrained_cfg
    if model.num_classes != cfg['num_classes']:
        for key in HEAD:
            expected.pop(key, None)
            found.pop(key, None)
    stem = BACKBONE + STEM
    channels = (cfg.get('input_size') or (3,))[0]
    if stem in found and channels != expected[stem].shape[1]:
        dims, _, *kernel = expected[stem].shape
        expected[stem] = expected[stem].new_empty(dims, channels, *kernel)
    check_weights(found, expected, 'the checkpoint')
    return weights


def _read(arch: str, cfg: Mapping) -> dict | None:
    """Read pretrained weights without unpickling; None if timm reads them.

    timm reads weights that are in memory already, and those of the hub of
    Hugging Face. The weights are the authors' if ``cfg`` names no others.
    """
    if not any(cfg.get(key) for key in SOURCES):
        return load_from_hatnet(f'hatnet://{arch}')
    if cfg.get('source') == 'hf-hub' or cfg.get('state_dict'):
        return None
    if cfg.get('source') == 'local-dir':
        files = [Path(cfg['file'], name) for name in FILES]
        return read_checkpoint(next(filter(Path.exists, files), files[0]))
    location = cfg.get('file') or (not cfg.get('hf_hub_id') and cfg.get('url'))
    return read_checkpoint(location) if location else None


def _create(
    arch: str,
    pretrained: bool = False,
    pretrained_cfg: dict | str | None = None,
    pretrained_cfg_overlay: dict | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model as timm does, with weights that our reader has read."""
    overlay = dict(pretrained_cfg_overlay or {})
    named = pretrained_cfg if isinstance(pretrained_cfg, dict) else {}
    given = {**named, **overlay}
    content = _read(arch, given) if pretrained else None
    if content is not None:
        overlay.update(state_dict=content, source='')
    if kwargs.get('features_only'):  # the paper's choice for dense prediction
        kwargs.setdefault('grid_sizes', (8, 8, 8))
        kwargs.setdefault('ds_ratios', (16, 8, 4))
    feature_cfg: dict = dict(out_indices=(0, 1, 2, 3), feature_cls='getter')
    if 'hook' in str(kwargs.get('feature_cls')).lower():
        feature_cfg.update(flatten_sequential=False, no_rewrite=True)
    model = build_model_with_cfg(
        HATNetClassifier,
        f'hatnet_{arch}',
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=_to_mm,
        feature_cfg=feature_cfg,
        arch=arch,
        **kwargs,
    )
    if content is not None:
        for part in {model, getattr(model, 'model', model)}:
            part.pretrained_cfg.pop('state_dict')
            part.pretrained_cfg['source'] = given.get('source')
    return model


default_cfgs = generate_default_cfgs(
    {
        f'hatnet_{arch}.in1k': dict(
            url=f'{RELEASE_URL}/{file}',
            min_input_size=(3, 32, 32),
            pool_size=(7, 7),
            first_conv='backbone.stem.0',
            classifier='head.fc',
            paper_ids='arXiv:2106.03180',
            origin_url='https://github.com/yun-liu/HAT-Net',
        )
        for arch, file in RELEASES.items()
    }
)


def _register(arch: str) -> None:
    """Register a function with timm, which takes the name of the model."""

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(arch, pretrained, **kwargs)

    build.__name__ = build.__qualname__ = f'hatnet_{arch}'
    register_model(build)


for arch in RELEASES:
    _register(arch)
