import os
import re
from pathlib import Path

import pytest
import torch
from helpers import (
    CLS_GRIDS,
    TOOLS,
    call_tool,
    error_of_last_stage,
    error_of_logits,
    pretrained,
    run_tool,
)
from mmengine.runner import load_checkpoint

from mmhatnet.apis.conversion import convert_classifier, convert_to_official
from mmhatnet.models import HATNet
from mmhatnet.utils.hashes import sha256_of
from mmhatnet.weights.files import read_checkpoint
from mmhatnet.weights.official import from_official

HATNET2MM = TOOLS / 'model_converters' / 'hatnet2mm.py'
PUBLISH_MODEL = TOOLS / 'model_converters' / 'publish_model.py'


class TestName:
    @pytest.mark.parametrize('name', ['hatnet://tiny', 'hatnet://t'])
    def test_backbone(self, name, server, golden):
        for _ in range(2):
            assert error_of_last_stage(pretrained(name), golden) < 5e-5
        assert len(server.requests) == 1  # the second load uses the cache
        assert sorted(os.listdir(server.hub / 'checkpoints')) == [
            'HAT-Net_Tiny.pth',
            'HAT-Net_Tiny.pth.sha256',
        ]

    def test_classifier(self, server, build_classifier, golden):
        classifier = build_classifier()
        load_checkpoint(classifier, 'hatnet://tiny')
        assert error_of_logits(classifier, golden) < 5e-5

    def test_values_that_are_not_finite(self, server, official_file):
        (server.release / 'HAT-Net_Tiny.pth').unlink()
        norm = torch.ones(48)
        norm[3] = torch.nan
        path = official_file(**{'blocks.0.1.attn.norm.weight': norm})
        os.link(path, server.release / 'HAT-Net_Tiny.pth')
        message = r'stages\.0\.1\.attn\.norm\.weight has values'
        with pytest.raises(ValueError, match=message):
            read_checkpoint('hatnet://tiny')

    def test_wrong_file(self, server):
        with pytest.raises(ValueError, match='hatnet://tiny, hatnet://small'):
            pretrained('hatnet://huge')
        os.link(
            server.release / 'HAT-Net_Tiny.pth',
            server.release / 'HAT-Net_Small.pth',
        )
        cfg = dict(type='Pretrained', checkpoint='hatnet://small')
        model = HATNet('small', init_cfg=cfg)
        with pytest.raises(ValueError, match='small does not fit .*wrong sh'):
            model.init_weights()


class TestConversion:
    def convert(self, tool, *arguments, run=call_tool):
        path = Path(run(tool, *arguments).splitlines()[-1])
        # The name has the hash, and the file only plain data.
        assert path.stem.endswith('-' + sha256_of(path)[:8])
        return path, torch.load(path, weights_only=True)

    @pytest.mark.parametrize('layout', ['bare', 'model, module'])
    def test_round_trip(
        self,
        layout,
        official,
        official_file,
        build_classifier,
        golden,
        tmp_path,
    ):
        source = official_file(layout)
        path, content = self.convert(HATNET2MM, source, tmp_path)
        assert path.name.startswith('hatnet-tiny_in1k-')
        assert content['meta']['source_sha256'] == sha256_of(source)
        model = build_classifier()
        load_checkpoint(model, str(path))
        assert error_of_logits(model, golden) < 5e-5
        arguments = path, tmp_path, '--to-official'
        path, content = self.convert(HATNET2MM, *arguments)
        assert path.name.startswith('HAT-Net_Tiny-')
        expected = official('tiny')
        assert content['model'].keys() == expected.keys()
        for key, value in content['model'].items():
            if 'proj_norm' in key:  # the identity
                wanted = torch.full_like(value, key.endswith('weight'))
            else:
                wanted = expected[key]
            assert torch.equal(value, wanted)
            assert value.shape == expected[key].shape

    def test_backbone(self, server, golden, tmp_path):
        path, content = self.convert(
            HATNET2MM, 'hatnet://tiny', tmp_path, '--backbone'
        )
        model = HATNet('tiny', **CLS_GRIDS).eval()
        model.load_state_dict(content['state_dict'])
        assert error_of_last_stage(model, golden) < 5e-5
        _, back = self.convert(HATNET2MM, path, tmp_path, '--to-official')
        assert not any(key.startswith('classifier') for key in back['model'])

    def test_weights_without_official_names(self, official):
        """The authors' code has no norms of the outputs."""
        weights = from_official(official('tiny'))
        weights['backbone.out_norms.0.weight'] = torch.zeros(48)
        with pytest.raises(ValueError, match='unexpected: backbone.out_norms'):
            convert_to_official(weights, 'epoch_1.pth')

    @pytest.mark.parametrize(
        ('damage', 'message'),
        [
            ({'ds3.conv.bias': torch.full((240,), torch.inf)}, 'not finite'),
            (
                {'blocks.0.2.attn.norm.bias': torch.zeros(48)},
                r'\(3, 2, 6, 3\) blocks, which matches none of tiny, small',
            ),
        ],
    )
    def test_damaged_file(self, damage, message, official_file):
        path = official_file(**damage)
        with pytest.raises(ValueError, match=f'{re.escape(path)}.*{message}'):
            convert_classifier(read_checkpoint(path), path)

    @pytest.mark.parametrize('option', [(), ('--to-official',)])
    def test_other_network(self, option, tmp_path):
        path = tmp_path / 'resnet.pth'
        torch.save({'layer1.0.conv1.weight': torch.zeros(1)}, path)
        output = call_tool(HATNET2MM, path, tmp_path, *option, code=1)
        error = output.splitlines()[-1]
        assert 'is not in the layout' in error
        assert 'layer1.0.conv1.weight' in error
        assert [file.name for file in tmp_path.iterdir()] == ['resnet.pth']

    @pytest.mark.slow
    def test_publish(self, official, tmp_path):
        weights = from_official(official('tiny'))
        meta = dict(cfg='model = dict()', dataset_meta=dict(classes=('a',)))
        content = dict(meta=meta, state_dict=weights, optimizer=dict(state={}))
        source = tmp_path / 'epoch_3.pth'
        torch.save(content, source)
        pinned = f'{source}#sha256={sha256_of(source)}'
        path, published = self.convert(
            PUBLISH_MODEL, pinned, tmp_path / 'out', run=run_tool
        )
        assert path.name.startswith('epoch_3-')
        assert published.keys() == {'meta', 'state_dict'}
        assert published['meta'] == meta
        torch.testing.assert_close(published['state_dict'], weights)
