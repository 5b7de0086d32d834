"""Every config builds, trains a step and is tested by mm's own tool."""

import ast
from importlib.util import find_spec
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from helpers import CONFIGS, ROOT, call_tool, open_config, slow_if_larger
from mmengine.config import Config
from mmengine.config.lazy import LazyObject
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from PIL import Image

import mmhatnet
from mmhatnet.datasets.random_batch import make_batch
from mmhatnet.engine.runner import adapt_to_cpu
from mmhatnet.models import HATNet
from mmhatnet.models.cls_head import HATNetClsHead
from mmhatnet.utils.config import name_types

CLASSIFIER = 'hatnet/hatnet-tiny_8xb128_in1k.py'


def mark(config):
    """Mark a config that needs no training step in each run of the tests."""
    marks = slow_if_larger(config, CONFIGS)
    # Variants of HAT-Net, in which the stacks cannot differ.
    if config.startswith('ablation') or 'evidence/fpn' in config:
        marks.append(pytest.mark.default_stack)
    return pytest.param(config, marks=marks)


@pytest.mark.parametrize('config', [*map(mark, CONFIGS)])
def test_training_step(config):
    cfg = open_config(config)
    if cfg.default_scope == 'mmseg':
        # It would pad the images to 512x512.
        cfg.model.data_preprocessor.size = (64, 64)
    rcnn = (cfg.model.get('train_cfg') or {}).get('rcnn') or []
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        stage.sampler.num = 64  # regions; 512 take most of the time
    adapt_to_cpu(cfg)
    cfg.model.backbone.init_cfg = None
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    model = MODELS.build({**cfg.model, 'data_preprocessor': preprocessor})
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


@pytest.mark.default_stack
@pytest.mark.parametrize('config', CONFIGS)
def test_neck_fits_the_backbone(config):
    """Also of the sizes whose training step is slow."""
    model = open_config(config).model
    channels = (model.get('neck') or {}).get('in_channels')
    if not channels:
        pytest.skip('it has no neck with channels')
    backbone = MODELS.build({**model.backbone, 'init_cfg': None})
    dims = [backbone.embed_dims[i] for i in backbone.out_indices]
    assert list(channels) == dims


def find_groups(cfg):
    """A model without values, and the settings of each of its weights."""
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    return model, {g['param_name']: g for g in optimizer.param_groups}


def test_layer_decay():
    """From the head to the stem, in a segmentor, beside custom rates."""
    cfg = open_config(
        'upernet/upernet_hatnet-small_8xb2-layer-decay-160k_ade20k-512x512.py'
    )
    cfg.optim_wrapper.paramwise_cfg.custom_keys = {
        'decode_head': dict(lr_mult=10.0),
        'backbone.stem.0': dict(lr_mult=3.0, decay_mult=0.5),
    }
    model, groups = find_groups(cfg)
    lr, depth = cfg.optim_wrapper.optimizer.lr, sum(model.backbone.depths)
    for name, rate in {
        'decode_head.conv_seg.weight': 10 * lr,
        'backbone.stages.3.2.mlp.fc1.weight': lr * 0.9,
        'backbone.stages.3.1.mlp.fc1.weight': lr * 0.9**2,
        'backbone.stem.0.weight': 3 * lr * 0.9 ** (depth + 1),
    }.items():
        assert groups[name]['lr'] == pytest.approx(rate)
    assert groups['backbone.stem.0.weight']['weight_decay'] == 0.5 * 0.01
    assert groups['backbone.stages.3.2.mlp.norm1.weight']['weight_decay'] == 0


def test_mmpretrain_sees_the_layers():
    """The layer-wise decay of mmpretrain is ours, too."""
    cfg = open_config(CLASSIFIER)
    adapt_to_cpu(cfg)
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimWrapperConstructor'
    cfg.optim_wrapper.paramwise_cfg = dict(layer_decay_rate=0.5)
    model, groups = find_groups(cfg)
    depth = sum(model.backbone.depths)
    assert groups['head.fc.weight']['lr'] == 1e-3
    assert groups['backbone.stages.3.2.mlp.fc1.weight']['lr'] == 5e-4
    rate = groups['backbone.stem.0.weight']['lr']
    assert rate == 1e-3 * 0.5 ** (depth + 1)


def test_test_command_with_an_official_file(official_file, tmp_path):
    """mmpretrain's own test tool reads the authors' file."""
    lines, images = [], []
    for label in range(2):
        noise = np.random.default_rng(label).integers(0, 256, (224, 224, 3))
        images.append(noise.astype(np.uint8))
        path = tmp_path / 'val' / f'n{label}' / 'image.png'
        path.parent.mkdir(parents=True)
        Image.fromarray(images[-1][..., ::-1]).save(path)
        lines.append(f'n{label}/image.png {label}')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'val.txt').write_text('\n'.join(lines))
    package = Path(find_spec('mmpretrain').origin).parent
    call_tool(
        package / '.mim' / 'tools' / 'test.py',
        ROOT / 'configs' / CLASSIFIER,
        *(official_file(), '--work-dir', tmp_path / 'work'),
        *('--out', tmp_path / 'scores.pkl', '--cfg-options'),
        f'test_dataloader.dataset.data_root={tmp_path}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    )
    inferencer = mmhatnet.get_inferencer(
        Path(CLASSIFIER).stem, official_file(), 'cpu'
    )
    samples = mmengine.load(tmp_path / 'scores.pkl')
    for sample, image in zip(samples, images, strict=True):
        found = sample['pred_score'].numpy()
        expected = inferencer(image)[0]['pred_scores']
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_head_pools_and_drops():
    head = HATNetClsHead(num_classes=5, in_channels=8)
    assert head.dropout.p == 0.2
    features = (torch.randn(2, 8, 3, 4),)
    assert not torch.allclose(head(features), head(features))
    expected = head.fc(features[0].mean(dim=(2, 3)))
    torch.testing.assert_close(head.eval()(features), expected)


def test_classes_become_names():
    """In the words of the registries, under the library of the model."""
    from mmcv.ops import nms
    from mmdet.models import RetinaNet
    from mmseg.datasets import LoadAnnotations

    class Mine(RetinaNet):
        pass

    other = dict(type='mmhatnet.HATNet', to_numpy=np.array)
    for kind, expected in (
        (RetinaNet, 'RetinaNet'),
        (LazyObject('mmdet.models', 'RetinaNet'), 'RetinaNet'),
        ('mmdet.models.detectors.retinanet.RetinaNet', 'RetinaNet'),
        (Mine, f'{__name__}.{Mine.__qualname__}'),
    ):
        model = dict(type=kind, backbone=dict(type=HATNet))
        model.update(norms=[dict(type=torch.nn.GroupNorm)], nms=dict(type=nms))
        step = (dict(type=LoadAnnotations),)
        cfg = Config(dict(model=model, step=step, other=other))
        name_types(cfg)
        assert cfg.default_scope == 'mmdet'
        assert cfg.model == dict(
            type=expected,
            backbone=dict(type='mmhatnet.HATNet'),
            norms=[dict(type='GN')],
            nms=dict(type='nms'),
        )
        assert cfg.step[0].type == 'mmseg.LoadAnnotations'
        assert cfg.other == other
    cfg = Config(dict(model=dict(type=torch.nn.Bilinear)))
    name_types(cfg)
    assert cfg.model.type == 'torch.nn.modules.linear.Bilinear'
    assert cfg.default_scope is None


def depth(path):
    """Levels of inheritance among our own files that set something."""
    settings = {
        ast.unparse(node.targets[0]): node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
    }
    bases = ast.literal_eval(settings.pop('_base_', ast.List([])))
    bases = [bases] if isinstance(bases, str) else bases
    others = '::', 'import_mmhatnet'
    ours = [x for x in bases if not any(name in x for name in others)]
    return bool(settings) + max(
        (depth(path.parent / x) for x in ours), default=0
    )


@pytest.mark.parametrize('config', CONFIGS)
def test_inheritance_is_flat(config):
    """A task lists its bases; what changes one thing inherits a task."""
    assert depth(ROOT / 'configs' / config) <= 3
