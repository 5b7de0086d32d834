"""The registry node through which mm configs find HAT-Net.

A config says ``type='mmhatnet.HATNet'``: the scope makes mmengine import this
module and, on the first look-up, the ``locations`` below. No
``custom_imports`` is needed, and none of mmpretrain, mmsegmentation and
mmdetection is imported.
"""

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmhatnet',
    locations=['mmhatnet.models'],
)
