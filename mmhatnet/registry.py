"""The registries through which mm configs find the classes of mmhatnet.

In a config, ``type='mmhatnet.HATNet'`` names the scope ``mmhatnet``. mmengine
then imports this module and, on the first look-up, the ``locations`` below.
No ``custom_imports`` is needed, and the backbone imports none of mmpretrain,
mmsegmentation and mmdetection.
"""

from mmengine import registry
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=registry.MODELS,
    scope='mmhatnet',
    locations=['mmhatnet.models'],
)
OPTIMIZERS = Registry(
    'optimizer',
    parent=registry.OPTIMIZERS,
    scope='mmhatnet',
    locations=['mmhatnet.engine.optim'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=registry.OPTIM_WRAPPERS,
    scope='mmhatnet',
    locations=['mmhatnet.engine.optim'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=registry.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmhatnet',
    locations=['mmhatnet.engine.layer_decay'],
)
HOOKS = Registry(
    'hook',
    parent=registry.HOOKS,
    scope='mmhatnet',
    locations=[
        'mmhatnet.engine.hooks',
        'mmhatnet.engine.elastic',
        'mmhatnet.engine.sandwich',
        'mmhatnet.engine.gpu',
    ],
)
TRANSFORMS = Registry(
    'transform',
    parent=registry.TRANSFORMS,
    scope='mmhatnet',
    locations=['mmhatnet.datasets.corruption'],
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=registry.WEIGHT_INITIALIZERS,
    scope='mmhatnet',
    locations=['mmhatnet.models'],
)
