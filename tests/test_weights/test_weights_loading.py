"""Checkpoints in models: right features, or an error that names a key."""

import numpy as np
import pytest
import torch
from helpers import (
    CLS_GRIDS,
    LAYOUTS,
    SMALL_ARCH,
    error_of_last_stage,
    error_of_logits,
    golden_image,
    pretrained,
)
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint, load_state_dict

from mmhatnet.apis.conversion import convert_classifier
from mmhatnet.models import HATNet
from mmhatnet.weights.files import read_checkpoint
from mmhatnet.weights.official import from_official


def load_by_torch(path):
    model = HATNet('tiny', **CLS_GRIDS).eval()
    model.load_state_dict(read_checkpoint(path))
    return model


def load_by_mmengine(path):
    model = HATNet('tiny', **CLS_GRIDS).eval()
    load_checkpoint(model, path)
    return model


@pytest.mark.parametrize(
    ('load', 'layout'),
    [
        *((pretrained, layout) for layout in LAYOUTS),
        (load_by_torch, 'model, module'),
        (load_by_mmengine, 'model, module'),
    ],
)
def test_official_file(load, layout, official_file, golden):
    assert error_of_last_stage(load(official_file(layout)), golden) < 5e-5


@pytest.mark.parametrize('layout', ['model', 'module'])
def test_official_classifier(layout, official_file, build_classifier, golden):
    model = build_classifier()
    load_checkpoint(model, official_file(layout))
    assert error_of_logits(model, golden) < 5e-5


@pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
def test_checkpoint_of_mm(prefix, official, tmp_path, golden):
    """With the other content of mmengine's training checkpoints."""
    content = dict(
        meta=dict(epoch=3, time='now', scalar=np.float64(0.5)),
        state_dict=from_official(official('tiny')),
        message_hub=dict(
            log_scalars={'loss': HistoryBuffer([1.0, 2.0], [1, 1])}
        ),
        optimizer=dict(state={}, param_groups=[dict(lr=np.float32(1))]),
    )
    torch.save(content, tmp_path / 'epoch_3.pth')
    model = pretrained(str(tmp_path / 'epoch_3.pth'), prefix)
    assert error_of_last_stage(model, golden) < 5e-5


@pytest.mark.parametrize('several', [True, False])
def test_checkpoint_of_a_backbone(several, tmp_path):
    """With norms and stages that the other one has not."""
    model = HATNet(SMALL_ARCH, out_norm_cfg=dict(type='BN'))
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    cfg = dict(checkpoint=str(tmp_path / 'own.pth'))  # without a type
    init_cfg = [cfg] if several else cfg
    other = HATNet(SMALL_ARCH, out_indices=(0, 1), init_cfg=init_cfg)
    other.init_weights()
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_fewer_stages_and_output_norms(official_file, golden):
    model = pretrained(
        official_file(), out_indices=(0, 2), out_norm_cfg=dict(type='BN')
    )
    model.out_norms = None
    with torch.no_grad():
        feature = model(golden_image())[1].numpy()
    expected = golden('tiny')['stage2_sample']
    difference = np.abs(feature[:, ::8, ::2, ::2] - expected).max()
    assert difference < 5e-5 * expected.std()


class TestStem:
    @pytest.mark.parametrize('channels', [1, 2, 4, 13])
    def test_adapted(self, channels, official_file):
        """Equal channels give the features of a grey RGB image."""
        file = official_file()
        rgb = pretrained(file)
        other = pretrained(file, in_channels=channels)
        grey = torch.randn(1, 1, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(
                other(grey.expand(-1, channels, -1, -1))[0],
                rgb(grey.expand(-1, 3, -1, -1))[0],
                rtol=1e-3,
                atol=1e-3,
            )

    def test_options(self, official_file):
        path = official_file()
        torch.manual_seed(0)
        before = HATNet('tiny', in_channels=4).stem[0].weight
        torch.manual_seed(0)
        model = pretrained(path, stem='random', in_channels=4)
        assert torch.equal(model.stem[0].weight, before)
        for stem, message in (
            ('strict', r'stem\.0\.weight \(16, 3, 3, 3'),
            ('sum', "got 'sum'"),
        ):
            with pytest.raises(ValueError, match=message):
                pretrained(path, stem=stem, in_channels=4)
        # A test or a resumed training does not change weights.
        state_dict = pretrained(path).state_dict()
        with pytest.raises(ValueError, match='wrong shape'):
            HATNet('tiny', in_channels=4).load_state_dict(state_dict)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            dict(drop=('patch_embed.0.weight', 'patch_embed.0.bias')),
            r'missing: (backbone\.)?stem\.0\.weight, .*stem\.0\.bias',
        ),
        (
            {'blocks.0.0.attn.extra.weight': torch.zeros(1)},
            r'unexpected: .*stages\.0\.0\.attn\.extra\.weight',
        ),
        (
            {'ds2.conv.weight': torch.zeros(96, 48, 1, 1)},
            r'wrong shape: .*downsamples\.0\.0\.weight \(96, 48, 1, 1\) '
            r'instead of \(96, 48, 3, 3\)',
        ),
    ],
)
def test_damaged_file(damage, message, official_file, build_classifier):
    path = official_file(**damage)
    for load in (
        pretrained,
        load_by_mmengine,
        lambda path: load_checkpoint(build_classifier(), path),
        lambda path: convert_classifier(read_checkpoint(path), path),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load(path)
        assert load is not pretrained or path in str(error.value)


@pytest.mark.parametrize(
    ('damage', 'head', 'message'),
    [
        (dict(drop=('classifier.1.bias',)), {}, r'missing: head\.fc\.bias'),
        ({'classifier.2.bias': torch.zeros(1)}, {}, 'unexpected: classifier'),
        ({}, dict(num_classes=10), r'head\.fc\.weight is \(1000'),
    ],
)
def test_wrong_head(damage, head, message, official_file, build_classifier):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(build_classifier(**head), official_file(**damage))


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_other_network(prefix, build_classifier, tmp_path):
    path = str(tmp_path / 'other.pth')
    key = f'{prefix}layer1.0.conv1.weight'
    torch.save({key: torch.zeros(1), 'head.weight': torch.zeros(1)}, path)
    for model in HATNet('tiny'), build_classifier():
        with pytest.raises(ValueError, match='unexpected: layer1.0.conv1'):
            load_checkpoint(model, path)
    for name in None, 'encoder':
        with pytest.raises(ValueError, match=r'other\.pth .*layer1\.0\.conv1'):
            pretrained(path, name)


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('backbone.layer1.conv.weight', 'unexpected: layer1.conv.weight'),
        ('backbone.stem.0.weight', r'wrong shape: stem\.0\.weight'),
    ],
)
def test_mismatch_inside_a_larger_model(key, message):
    """mmengine itself would only log it."""
    model = torch.nn.ModuleDict({'backbone': HATNet(SMALL_ARCH)})
    with pytest.raises(ValueError, match=message):
        load_state_dict(model, {key: torch.zeros(1)})
    head_only = {'decode_head.weight': torch.zeros(1)}
    model.load_state_dict(head_only, strict=False)


@pytest.mark.parametrize(
    ('init_cfg', 'problem'),
    [
        (dict(type='TruncNormal', std=0.02, checkpoint='x'), 'Trunc|std'),
        (dict(type='Pretrained'), 'type'),
        ('x.pth', 'x.pth'),
        ([dict(type='Pretrained', checkpoint='x', typo=1)], 'typo'),
    ],
)
def test_keys_of_init_cfg(init_cfg, problem):
    """As options of a command line merge them into those of a config."""
    model = HATNet(SMALL_ARCH, init_cfg=init_cfg)
    with pytest.raises(ValueError, match=problem) as error:
        model.init_weights()
    assert 'checkpoint, map_location, prefix, stem' in str(error.value)
    assert '_delete_=True' in str(error.value)
