"""What a config and its options become before a run."""

from runpy import run_path
from types import SimpleNamespace

import pytest
import torch
from helpers import CONFIGS, TOOLS, call_tool, open_config
from mmengine.config import Config
from mmengine.registry import MODELS

from mmhatnet.engine import runner as engine
from mmhatnet.utils.config import check_keys

train = SimpleNamespace(**run_path(TOOLS / 'train.py'))


@pytest.mark.parametrize(
    'config',
    [
        'sem_fpn/fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py',
        'retinanet/retinanet_hatnet-tiny_fpn_8xb2-1x_coco.py',
        'hatnet/hatnet-tiny_8xb128_in1k.py',
        'shipped/tree-detector.py',
    ],
)
def test_tta(config):
    cfg = open_config(config)
    head = cfg.model.type
    run_path(TOOLS / 'test.py')['enable_tta'](cfg)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert 'TTA' in type(model).__name__
    assert type(model.module).__name__ == head
    dataset = cfg.test_dataloader.dataset
    assert any(step.type == 'TestTimeAug' for step in dataset.pipeline)


def test_test_of_a_config_without_a_scope():
    hooks = dict(visualization=dict(type='SegVisualizationHook'))
    cfg = Config(dict(default_hooks=hooks, visualizer=dict(type='Visualizer')))
    tool = run_path(TOOLS / 'test.py')
    tool['enable_show'](cfg, 'shown')
    assert cfg.visualizer.save_dir == 'shown'
    tool['enable_out'](cfg, 'out.pkl')
    assert cfg.test_evaluator[0].type == 'DumpResults'


def test_bfloat16_of_mmcv(monkeypatch):
    """Refused where mmcv's operators would fail."""
    monkeypatch.setattr(engine, 'describe_operators', lambda: 'mmcv')
    cfg = open_config('sem_fpn/fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py')
    train.enable_amp(cfg, 'bfloat16')
    cfg = open_config('retinanet/retinanet_hatnet-tiny_fpn_8xb2-1x_coco.py')
    with pytest.raises(ValueError, match='use --amp float16'):
        train.enable_amp(cfg, 'bfloat16')
    train.enable_amp(cfg, 'float16')
    monkeypatch.setattr(engine, 'describe_operators', lambda: 'torchvision')
    train.enable_amp(cfg, 'bfloat16')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.dtype == 'bfloat16'


def test_amp_and_auto_scale_lr():
    cfg = Config(
        dict(
            optim_wrapper=dict(optimizer=dict(type='AdamW')),
            auto_scale_lr=dict(base_batch_size=16),
        )
    )
    train.enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    train.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(base_batch_size=16, enable=True)
    # Four batches of 2 are one of 8, half of the base.
    cfg.optim_wrapper.accumulative_counts = 4
    train.enable_auto_scale_lr(cfg)
    assert 2 / cfg.auto_scale_lr.base_batch_size == 8 / 16
    with pytest.raises(ValueError, match='base_batch_size'):
        train.enable_auto_scale_lr(Config(dict()))
    with pytest.raises(ValueError, match='Other'):
        train.enable_amp(Config(dict(optim_wrapper=dict(type='Other'))))
    # The runner says that the wrapper is missing.
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    train.enable_amp(cfg)
    train.enable_auto_scale_lr(cfg)


@pytest.mark.parametrize('hooks', [None, dict(checkpoint=None), dict(a=1)])
def test_checkpoints_without_usual_hooks(hooks):
    cfg = Config(dict(default_hooks=hooks))
    engine._guard_checkpoints(cfg)
    checkpoint = dict(type='mmhatnet.AtomicCheckpointHook')
    assert cfg.default_hooks == dict(
        dict(checkpoint=checkpoint), **hooks or {}
    )


def test_show_dir_needs_a_hook_and_a_visualizer():
    show = run_path(TOOLS / 'test.py')['enable_show']
    for hook, visualizer in (None, dict(type='A')), (dict(type='A'), None):
        hooks = dict(visualization=hook)
        cfg = Config(dict(default_hooks=hooks, visualizer=visualizer))
        with pytest.raises(ValueError, match='--show-dir needs'):
            show(cfg, 'shown')


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        # mmengine would ignore them.
        ('trian_cfg.max_iters=3', "is 'train_cfg' meant"),
        ('dataset.type=x', "'dataset.type' changes nothing: it is a variable"),
        ('crop_size=x', "'crop_size' changes nothing: it is a variable"),
    ],
)
def test_options_without_effect(key, message, small_config):
    command = TOOLS / 'train.py', small_config, '--cfg-options', key
    assert message in call_tool(*command, code=1)


def test_keys_of_all_configs():
    check_keys(Config(dict(_model=1, model2=2, work_dirs=3)))  # variables
    for config in CONFIGS:
        check_keys(open_config(config))


@pytest.mark.parametrize('key', ['pretrained', 'init_cfg', 'list'])
@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet'])
def test_weights_of_the_whole_model(key, scope):
    """The runner reads them where their keys are checked."""
    named = dict(type='Pretrained', checkpoint='x.pth')
    backbone = dict(type='mmhatnet.HATNet', init_cfg=None)
    value = dict(pretrained='x.pth', init_cfg=named, list=[named])[key]
    key = 'pretrained' if key == 'pretrained' else 'init_cfg'
    model = {'backbone': backbone, key: value}
    cfg = Config(dict(default_scope=scope, load_from=None, model=model))
    engine._move_pretrained(cfg)
    of_backbone = key == 'pretrained' and scope != 'mmpretrain'
    expected = (None, named) if of_backbone else ('x.pth', None)
    assert (cfg.load_from, cfg.model.backbone.init_cfg) == expected
    assert key not in cfg.model
