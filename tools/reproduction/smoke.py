"""The config of an experiment on the demo data, for a test of all steps."""

from mmengine.config import Config

from mmhatnet.apis.zoo import zoo_root
from mmhatnet.datasets import CLASSES
from mmhatnet.utils.config import iter_dicts, read_config

DATA = dict(
    mmpretrain='demo_imagenet', mmseg='demo_semantic', mmdet='demo_instance'
)
IMAGES, BATCH, EPOCHS = 8, 2, 2


def shrink(cfg: Config) -> Config:
    """Change a config of the paper so that it runs in minutes on two cores.

    The model and the optimizer stay, with the classes of the demo data and
    without pretrained weights. The metrics mean nothing.
    """
    scope = cfg.default_scope
    demo = read_config(
        zoo_root() / 'configs' / '_base_' / 'datasets' / f'{DATA[scope]}.py'
    )
    for key in ('train', 'val', 'test'):
        loader = demo[f'{key}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.batch_size = BATCH if key == 'train' else 1
        # The images of the classifier are ordered by class.
        step = 7 if scope == 'mmpretrain' else 1
        loader.dataset.indices = list(range(0, step * IMAGES, step))
        cfg[f'{key}_dataloader'] = loader
    cfg.val_evaluator = demo.val_evaluator
    cfg.test_evaluator = demo.test_evaluator
    classes = len(CLASSES) + (scope == 'mmseg')
    for part in iter_dicts(cfg.model):
        if 'num_classes' in part:
            part['num_classes'] = classes
    cfg.model.backbone.init_cfg = None
    cfg.param_scheduler = None
    if scope == 'mmseg':
        cfg.model.data_preprocessor.size = (128, 128)
        iterations = EPOCHS * IMAGES // BATCH
        cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
        cfg.default_hooks.checkpoint.interval = iterations // 2
    else:
        cfg.train_cfg.update(max_epochs=EPOCHS, val_interval=EPOCHS)
    if scope == 'mmdet' and 'roi_head' not in cfg.model:
        cfg.val_evaluator.metric = cfg.test_evaluator.metric = 'bbox'
    if scope == 'mmpretrain':
        cfg.data_preprocessor.num_classes = classes
        cfg.model.head.topk = 1
    cfg.default_hooks.logger.interval = 1
    cfg.pop('auto_scale_lr', None)
    return cfg
