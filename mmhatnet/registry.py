"""The registry nodes through which mm configs find what is in mmhatnet.

A config says ``type='mmhatnet.HATNet'``: the scope makes mmengine import this
module and, on the first look-up, the ``locations`` below. No
``custom_imports`` is needed, and none of mmpretrain, mmsegmentation and
mmdetection is imported for the backbone.
"""

from mmengine import registry
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=registry.MODELS,
    scope='mmhatnet',
    locations=['mmhatnet.models'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=registry.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmhatnet',
    locations=['mmhatnet.optim'],
)
