"""Every config builds, trains a step and is tested by mm's own tool."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from helpers import (
    CONFIGS,
    ROOT,
    call_tool,
    golden_image,
    open_config,
)
from mmengine.config import Config
from mmengine.config.lazy import LazyObject
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from PIL import Image

from mmhatnet.datasets import CLASSES
from mmhatnet.datasets.random_batch import make_batch
from mmhatnet.engine.runner import adapt_to_cpu
from mmhatnet.models import HATNet
from mmhatnet.utils.config import name_types


def build(cfg):
    """The model without its pretrained weights."""
    adapt_to_cpu(cfg)
    cfg.model.backbone.init_cfg = None
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    return MODELS.build({**cfg.model, 'data_preprocessor': preprocessor})


def build_without_values(cfg):
    """The model on the meta device, which takes no memory or time."""
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize(
    'config',
    [
        # The stacks cannot differ by a setting of the backbone.
        pytest.param(config, marks=pytest.mark.default_stack)
        if re.search('large|medium|ablation', config)
        else config
        for config in CONFIGS
    ],
)
def test_training_step(config):
    cfg = open_config(config)
    if cfg.default_scope == 'mmseg':
        # It would pad the images to 512x512.
        cfg.model.data_preprocessor.size = (64, 64)
    rcnn = (cfg.model.get('train_cfg') or {}).get('rcnn') or []
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        stage.sampler.num = 64  # regions; 512 take most of the time
    model = build(cfg)
    head = cfg.model.get('bbox_head') or {}
    classes = min(head.get('num_classes', 6), 6)
    batch = make_batch(cfg.default_scope, classes=classes)
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    weight = next(model.backbone.parameters())
    before = weight.clone()
    build_optim_wrapper(model, cfg.optim_wrapper).step()
    assert not torch.equal(weight, before)


@pytest.mark.parametrize('stem', ['semantic', 'instance'])
def test_demo_classes(stem):
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/demo_{stem}.py')
    background = stem == 'semantic'
    classes = ('background', *CLASSES) if background else CLASSES
    assert cfg.metainfo.classes == classes


@pytest.mark.parametrize('custom', [False, True])
def test_layer_decay(custom):
    """From the head to the stem, in a segmentor; also of custom rates."""
    cfg = open_config(
        'upernet/upernet_hatnet-small_8xb2-layer-decay-160k_ade20k-512x512.py'
    )
    if custom:
        cfg.optim_wrapper.paramwise_cfg.custom_keys = {
            'decode_head': dict(lr_mult=10.0),
            'backbone.stem.0': dict(lr_mult=3.0, decay_mult=0.5),
        }
    head_factor, stem_factor = (10, 3) if custom else (1, 1)
    model = build_without_values(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = {g['param_name']: g for g in wrapper.optimizer.param_groups}
    lr, depth = cfg.optim_wrapper.optimizer.lr, sum(model.backbone.depths)
    for name, rate in {
        'decode_head.conv_seg.weight': head_factor * lr,
        'backbone.stages.3.2.mlp.fc1.weight': lr * 0.9,
        'backbone.stages.3.1.mlp.fc1.weight': lr * 0.9**2,
        'backbone.stem.0.weight': stem_factor * lr * 0.9 ** (depth + 1),
    }.items():
        assert groups[name]['lr'] == pytest.approx(rate)
    if custom:
        assert groups['backbone.stem.0.weight']['weight_decay'] == 0.5 * 0.01
    assert groups['backbone.stages.3.2.mlp.norm1.weight']['weight_decay'] == 0


def depth(path):
    """Levels of inheritance, with those of the libraries."""
    tree = ast.parse(path.read_text())
    found = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_'
    ]
    bases = found[0] if found else []
    paths = []
    for base in [bases] if isinstance(bases, str) else bases:
        package, _, name = base.rpartition('::')
        folder = path.parent
        if package:
            folder = Path(find_spec(package).origin).parent / '.mim/configs'
        paths.append(folder / name)
    return 1 + max(map(depth, paths), default=0)


@pytest.mark.parametrize('config', CONFIGS)
def test_inheritance_is_flat(config):
    # Those that show an option, and experiments, inherit the config that they
    # change.
    option = re.search('-(amp|cp|compile)-|^evidence/|^shipped/', config)
    assert depth(ROOT / 'configs' / config) <= (5 if option else 4)


@pytest.fixture
def imagenet(tmp_path):
    """Two images in ImageNet's folders."""
    rng = np.random.default_rng(0)
    names = 'n01440764/image.png', 'n01443537/image.png'
    for name in names:
        path = tmp_path / 'imagenet' / 'val' / name
        path.parent.mkdir(parents=True)
        noise = rng.integers(0, 256, (300, 260, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    (tmp_path / 'imagenet' / 'meta').mkdir()
    lines = f'{names[0]} 0\n{names[1]} 1\n'
    (tmp_path / 'imagenet' / 'meta' / 'val.txt').write_text(lines)
    return tmp_path / 'imagenet'


def test_test_command_with_an_official_file(
    official, official_file, imagenet, tmp_path
):
    """mmpretrain's own test tool reads the authors' file."""
    checkpoint = official_file()
    package = Path(find_spec('mmpretrain').origin).parent
    output = call_tool(
        package / '.mim' / 'tools' / 'test.py',
        ROOT / 'configs' / 'hatnet' / 'hatnet-tiny_8xb128_in1k.py',
        *(checkpoint, '--work-dir', tmp_path / 'work'),
        *('--out', tmp_path / 'scores.pkl', '--cfg-options'),
        f'test_dataloader.dataset.data_root={imagenet}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    )
    assert 'accuracy/top1' in output
    samples = mmengine.load(tmp_path / 'scores.pkl')
    assert len(samples) == 2
    # The same images through the same weights, without mm's loop.
    cfg = open_config('hatnet/hatnet-tiny_8xb128_in1k.py')
    cfg.test_dataloader.dataset.data_root = str(imagenet)
    from mmpretrain.registry import DATASETS

    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    model = MODELS.build(
        {**cfg.model, 'data_preprocessor': cfg.data_preprocessor}
    ).eval()
    model.load_state_dict({'model': official('tiny')})
    for sample, data in zip(samples, dataset, strict=True):
        batch = dict(
            inputs=[data['inputs']], data_samples=[data['data_samples']]
        )
        expected = model.test_step(batch)[0].pred_score
        torch.testing.assert_close(sample['pred_score'], expected)


def test_head_pools_and_drops():
    from mmhatnet.models.cls_head import HATNetClsHead

    head = HATNetClsHead(num_classes=5, in_channels=8)
    assert head.dropout.p == 0.2
    features = (torch.randn(2, 8, 3, 4),)
    assert not torch.allclose(head(features), head(features))
    expected = head.fc(features[0].mean(dim=(2, 3)))
    torch.testing.assert_close(head.eval()(features), expected)


def test_mmpretrain_sees_the_layers():
    """Layer-wise lr decay and feature extraction of mmpretrain."""
    cfg = open_config('hatnet/hatnet-tiny_8xb128_in1k.py')
    adapt_to_cpu(cfg)
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimWrapperConstructor'
    cfg.optim_wrapper.paramwise_cfg = dict(layer_decay_rate=0.5)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = wrapper.optimizer.param_groups
    rates = {group['param_name']: group['lr'] for group in groups}
    depth = sum(model.backbone.depths)
    assert rates['head.fc.weight'] == 1e-3
    assert rates['backbone.stages.3.2.mlp.fc1.weight'] == 5e-4
    assert rates['backbone.stem.0.weight'] == 1e-3 * 0.5 ** (depth + 1)
    features = model.extract_feat(golden_image(64, 64), stage='backbone')
    assert features[0].shape == (2, 384, 2, 2)


def test_classes_become_names():
    """In the words of the registries, under the library of the model."""
    from mmcv.ops import nms
    from mmdet.models import RetinaNet
    from mmseg.datasets import LoadAnnotations

    class Mine(RetinaNet):
        pass

    path = f'{__name__}.test_classes_become_names.<locals>.Mine'
    other = dict(type='mmhatnet.HATNet', to_numpy=np.array)
    for kind, expected in (
        (RetinaNet, 'RetinaNet'),
        (LazyObject('mmdet.models', 'RetinaNet'), 'RetinaNet'),
        ('mmdet.models.detectors.retinanet.RetinaNet', 'RetinaNet'),
        (Mine, path),
    ):
        model = dict(type=kind, backbone=dict(type=HATNet))
        model['norms'] = [dict(type=torch.nn.GroupNorm)]
        model['test_cfg'] = dict(nms=dict(type=nms))
        step = (dict(type=LoadAnnotations),)
        cfg = Config(dict(model=model, step=step, other=other))
        name_types(cfg)
        assert cfg.default_scope == 'mmdet'
        assert cfg.model == dict(
            type=expected,
            backbone=dict(type='mmhatnet.HATNet'),
            norms=[dict(type='GN')],
            test_cfg=dict(nms=dict(type='nms')),
        )
        assert cfg.step[0].type == 'mmseg.LoadAnnotations'
        assert cfg.other == other
        if expected == 'RetinaNet':
            with MODELS.switch_scope_and_registry('mmdet') as registry:
                assert registry.get(cfg.model.type) is RetinaNet


def test_model_without_a_library():
    cfg = Config(dict(model=dict(type=torch.nn.Bilinear)))
    name_types(cfg)
    assert cfg.model.type == 'torch.nn.modules.linear.Bilinear'
    assert cfg.default_scope is None
