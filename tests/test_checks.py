"""Missing data and wrong checkpoints are found before a run."""

import pytest
import torch
from helpers import CONFIGS, DEMOS, TOOLS, call_tool, open_config
from mmengine.config import ConfigDict

from mmhatnet import checks


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
