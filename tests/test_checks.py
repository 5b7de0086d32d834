"""Missing data and wrong checkpoints are found before a run."""

import re
from types import SimpleNamespace

import pytest
import torch
from helpers import CONFIGS, DEMOS, TOOLS, call_tool, open_config
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhatnet import checks
from mmhatnet.config import read_config
from mmhatnet.hooks import MatchingKeysHook


class TestData:
    @pytest.mark.parametrize('name', CONFIGS)
    def test_missing(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cfg = open_config(name)
        with pytest.raises(FileNotFoundError) as error:
            checks.check_data(cfg, ('train', 'val'))
        message = str(error.value)
        assert sum(s in message for s in checks.DATA_SOURCES.values()) == 1
        assert cfg.train_dataloader.dataset.data_root in message
        assert '\n' not in message

    def test_parts(self, demo_folder, monkeypatch):
        monkeypatch.chdir(demo_folder)
        cfg = open_config(f'demo/{DEMOS["Instance Segmentation"]}.py')
        checks.check_data(cfg, ('train', 'val', 'test'))
        dataset = cfg.train_dataloader.dataset
        cfg.train_dataloader.dataset = ConfigDict(
            type='RepeatDataset', times=2, dataset=dataset
        )
        checks.check_data(cfg, ('train',))
        dataset.ann_file = 'annotations/nothing.json'
        cfg.train_dataloader.dataset.dataset = dataset
        with pytest.raises(FileNotFoundError, match='annotations/nothing'):
            checks.check_data(cfg, ('train',))
        checks.check_data(cfg, ('val',))


class TestForeignCheckpoint:
    """A file that shares no key with the model is an error."""

    def last_line(self, config, checkpoint, folder):
        output = call_tool(
            TOOLS / 'test.py', config, checkpoint, cwd=folder, code=1
        )
        return output.splitlines()[-1]

    def test_other_model(self, demo_folder, small_config):
        torch.save(dict(conv1=torch.ones(1)), demo_folder / 'other.pth')
        line = self.last_line(small_config, 'other.pth', demo_folder)
        assert line.startswith('test.py: error: other.pth does not fit')
        assert 'conv1' in line
        assert 'backbone.stem' in line

    def test_official_in_a_segmentor(
        self, demo_folder, small_config, official_file
    ):
        file = official_file()
        line = self.last_line(small_config, file, demo_folder)
        assert f'error: {file} does not fit' in line
        assert 'init_cfg' in line

    @pytest.fixture
    def weights(self, small_config):
        cfg = read_config(small_config)
        init_default_scope('mmseg')
        return MODELS.build(cfg.model).state_dict()

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda w: w.pop('decode_head.conv_seg.bias'), 'missing: decode'),
            (lambda w: w.update(extra=torch.ones(1)), 'unexpected: extra'),
            (
                lambda w: w.update(
                    {'decode_head.conv_seg.bias': torch.ones(9)}
                ),
                r'wrong shape: .*\(9,\)',
            ),
            (
                lambda w: w['decode_head.conv_seg.bias'].fill_(torch.nan),
                'conv_seg.bias has values that are not finite',
            ),
        ],
    )
    def test_tests_are_strict(
        self, change, message, weights, demo_folder, small_config
    ):
        """One key that differs would give wrong metrics."""
        change(weights)
        torch.save(dict(state_dict=weights), demo_folder / 'changed.pth')
        line = self.last_line(small_config, 'changed.pth', demo_folder)
        assert re.search(message, line)

    def test_trainings_may_change_the_head(self, weights):
        """But not the backbone."""
        runner = SimpleNamespace(
            model=nn.Module(), cfg=Config(dict(load_from='file'))
        )
        runner.model.state_dict = lambda: weights
        checkpoint = dict(state_dict=dict(weights))
        head = checkpoint['state_dict']
        head['decode_head.conv_seg.bias'] = torch.ones(9)
        hook = MatchingKeysHook(strict=False)
        hook.after_load_checkpoint(runner, checkpoint)
        with pytest.raises(ValueError, match='wrong shape'):
            MatchingKeysHook(strict=True).after_load_checkpoint(
                runner, checkpoint
            )
        del head['backbone.stages.0.1.attn.qkv.weight']
        with pytest.raises(ValueError, match=r'missing: backbone\.stages'):
            hook.after_load_checkpoint(runner, checkpoint)
