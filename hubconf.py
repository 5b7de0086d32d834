"""Models for ``torch.hub.load(REPOSITORY, NAME)``; see docs/hubs.md."""

from functools import partial

from torch import nn

from mmhatnet import get_model
from mmhatnet.models import HATNet
from mmhatnet.weights.loading import load_backbone

dependencies = ['mmcv', 'mmengine', 'mmpretrain', 'torch']


def hatnet(
    arch: str = 'small', pretrained: bool | str = False, **kwargs
) -> nn.Module:
    """Build the backbone, from images to the maps of its stages.

    Args:
        arch (str): As in mmhatnet.models.HATNet, like ``kwargs``.
        pretrained (bool | str): True for the authors' ImageNet weights, or a
            file, a URL or ``hatnet://NAME``. Defaults to False.
        **kwargs: Other arguments.
    """
    model = HATNet(arch, **kwargs)
    if pretrained:
        name = f'hatnet://{arch}' if pretrained is True else pretrained
        load_backbone(model, name)
    return model


def _classifier(
    arch: str,
    pretrained: bool | str = False,
    init_cfg: dict | None = None,
    **kwargs,
) -> nn.Module:
    """Build the ImageNet classifier; ``kwargs`` as for mmhatnet.get_model.

    ``init_cfg`` says how the backbone's initial weights are drawn.
    """
    if init_cfg:
        kwargs['backbone'] = kwargs.get('backbone', {}) | {
            'init_cfg': init_cfg
        }
    return get_model(f'hatnet-{arch}_8xb128_in1k', pretrained, **kwargs)


hatnet_tiny = partial(_classifier, 'tiny')
hatnet_small = partial(_classifier, 'small')
hatnet_medium = partial(_classifier, 'medium')
hatnet_large = partial(_classifier, 'large')
