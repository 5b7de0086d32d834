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

from mmhatnet.models import HATNet
from mmhatnet.weights.files import read_checkpoint
from mmhatnet.weights.loading import to_backbone
from mmhatnet.weights.official import from_official


class TestBackbone:
    @pytest.mark.parametrize('layout', LAYOUTS)
    def test_pretrained_official_file(self, layout, official_file, golden):
        model = pretrained(official_file(layout))
        assert error_of_last_stage(model, golden) < 5e-5

    @pytest.mark.parametrize('channels', [1, 2, 4, 13])
    def test_other_channels(self, channels, official_file):
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

    def test_stem_of_other_channels(self, official_file):
        def load(**kwargs):
            init_cfg = dict(
                type='Pretrained', checkpoint=official_file(), **kwargs
            )
            model = HATNet('tiny', in_channels=4, init_cfg=init_cfg)
            before = model.stem[0].weight.clone()
            model.init_weights()
            return before, model.stem[0].weight

        before, after = load(stem='random')
        assert torch.equal(after, before)
        with pytest.raises(ValueError, match=r'stem\.0\.weight \(16, 3, 3, 3'):
            load(stem='strict')
        with pytest.raises(ValueError, match="got 'sum'"):
            load(stem='sum')
        # A test or a resumed training does not change weights.
        state_dict = pretrained(official_file()).state_dict()
        with pytest.raises(ValueError, match='wrong shape'):
            HATNet('tiny', in_channels=4).load_state_dict(state_dict)

    @pytest.mark.parametrize('layout', ['bare', 'model, module'])
    def test_loaders_of_torch_and_mmengine(
        self, layout, official_file, golden
    ):
        by_torch = HATNet('tiny', **CLS_GRIDS).eval()
        by_torch.load_state_dict(read_checkpoint(official_file(layout)))
        assert error_of_last_stage(by_torch, golden) < 5e-5
        by_mmengine = HATNet('tiny', **CLS_GRIDS).eval()
        load_checkpoint(by_mmengine, official_file(layout))
        assert error_of_last_stage(by_mmengine, golden) < 5e-5

    @pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
    def test_checkpoint_of_mm(self, prefix, official, tmp_path, golden):
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
        model = HATNet(
            'tiny',
            **CLS_GRIDS,
            init_cfg=dict(
                type='Pretrained',
                checkpoint=str(tmp_path / 'epoch_3.pth'),
                prefix=prefix,
            ),
        ).eval()
        model.init_weights()
        assert error_of_last_stage(model, golden) < 5e-5

    def test_checkpoint_of_a_bare_backbone(self, tmp_path):
        model = HATNet(SMALL_ARCH, out_norm_cfg=dict(type='BN'))
        torch.save(model.state_dict(), tmp_path / 'own.pth')
        other = HATNet(
            SMALL_ARCH,
            out_indices=(0, 1),
            init_cfg=dict(
                type='Pretrained', checkpoint=str(tmp_path / 'own.pth')
            ),
        )
        other.init_weights()
        for name, value in other.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])

    def test_fewer_stages_and_output_norms(self, official_file, golden):
        model = pretrained(
            official_file(), out_indices=(0, 2), out_norm_cfg=dict(type='BN')
        )
        model.out_norms = None
        with torch.no_grad():
            feature = model(golden_image())[1].numpy()
        expected = golden('tiny')['stage2_sample']
        difference = np.abs(feature[:, ::8, ::2, ::2] - expected).max()
        assert difference < 5e-5 * expected.std()

    @pytest.mark.parametrize(
        ('damage', 'message'),
        [
            (
                dict(drop=('patch_embed.0.weight', 'patch_embed.0.bias')),
                r'missing: stem\.0\.weight, stem\.0\.bias',
            ),
            (
                {'blocks.0.0.attn.extra.weight': torch.zeros(1)},
                r'unexpected: stages\.0\.0\.attn\.extra\.weight',
            ),
            (
                {'ds2.conv.weight': torch.zeros(96, 48, 1, 1)},
                r'downsamples\.0\.0\.weight \(96, 48, 1, 1\) instead of '
                r'\(96, 48, 3, 3\)',
            ),
        ],
    )
    def test_damaged_file(self, damage, message, official_file):
        path = official_file(**damage)
        with pytest.raises(ValueError, match=message) as error:
            pretrained(path)
        assert path in str(error.value)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(HATNet('tiny'), path)

    @pytest.mark.parametrize('prefix', [None, 'encoder'])
    def test_no_key_matches(self, prefix, tmp_path):
        path = str(tmp_path / 'other.pth')
        torch.save({'layer1.0.conv1.weight': torch.zeros(1)}, path)
        model = HATNet('tiny')
        with pytest.raises(ValueError, match=r'other\.pth .*layer1\.0\.conv1'):
            to_backbone(read_checkpoint(path), model, path, prefix)
        with pytest.raises(ValueError, match='unexpected: layer1.0.conv1'):
            load_checkpoint(model, path)

    @pytest.mark.parametrize(
        ('key', 'message'),
        [
            ('backbone.layer1.conv.weight', 'unexpected: layer1.conv.weight'),
            ('backbone.stem.0.weight', r'wrong shape: stem\.0\.weight'),
        ],
    )
    def test_mismatch_inside_a_larger_model(self, key, message):
        """mmengine itself would only log it."""
        model = torch.nn.ModuleDict({'backbone': HATNet(SMALL_ARCH)})
        with pytest.raises(ValueError, match=message):
            load_state_dict(model, {key: torch.zeros(1)})
        head_only = {'decode_head.weight': torch.zeros(1)}
        model.load_state_dict(head_only, strict=False)


class TestClassifier:
    @pytest.mark.parametrize('layout', ['model', 'module'])
    def test_load_from(self, layout, official_file, build_classifier, golden):
        model = build_classifier()
        load_checkpoint(model, official_file(layout))
        assert error_of_logits(model, golden) < 5e-5

    @pytest.mark.parametrize(
        ('damage', 'message'),
        [
            (dict(drop=('classifier.1.bias',)), r'missing: head\.fc\.bias'),
            ({'classifier.2.bias': torch.zeros(1)}, 'unexpected: classifier'),
            ({'ds4.norm.bias': torch.zeros(1)}, r'wrong shape: .*\.2\.1\.b'),
        ],
    )
    def test_damaged_file(
        self, damage, message, official_file, build_classifier
    ):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(build_classifier(), official_file(**damage))

    def test_other_number_of_classes(self, official_file, build_classifier):
        model = build_classifier(num_classes=10)
        with pytest.raises(ValueError, match=r'head\.fc\.weight is \(1000'):
            load_checkpoint(model, official_file())

    @pytest.mark.parametrize('prefix', ['', 'backbone.'])
    def test_other_network(self, prefix, build_classifier, tmp_path):
        path = str(tmp_path / 'other.pth')
        weights = {
            f'{prefix}layer1.0.conv1.weight': torch.zeros(1),
            'head.weight': torch.zeros(1),
        }
        torch.save(weights, path)
        with pytest.raises(ValueError, match='unexpected: layer1.0.conv1'):
            load_checkpoint(build_classifier(), path)


@pytest.mark.parametrize(
    ('init_cfg', 'problem'),
    [
        (dict(type='TruncNormal', std=0.02, checkpoint='x'), 'Trunc|std'),
        (dict(type='Pretrained'), 'type'),
        (dict(std=0.02), 'std'),
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


@pytest.mark.parametrize('several', [True, False])
def test_forms_of_init_cfg(several, tmp_path):
    model = HATNet(SMALL_ARCH)
    torch.save(model.state_dict(), tmp_path / 'x.pth')
    init_cfg = dict(checkpoint=str(tmp_path / 'x.pth'))  # without a type
    found = HATNet(SMALL_ARCH, init_cfg=[init_cfg] if several else init_cfg)
    found.init_weights()
    torch.testing.assert_close(found.state_dict(), model.state_dict())
