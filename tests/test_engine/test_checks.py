"""Missing data and wrong checkpoints are found before a run."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import CONFIGS, DEMOS, TOOLS, call_tool, open_config
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhatnet.engine.checks import DATA_SOURCES, check_data, inspect_data
from mmhatnet.engine.hooks import MatchingKeysHook
from mmhatnet.utils.config import read_config

ANNOTATIONS = 'data/demo/coco/annotations/instances'


@pytest.fixture
def open_demo(demo_folder, monkeypatch):
    monkeypatch.chdir(demo_folder)
    return lambda task: open_config(f'demo/{DEMOS[task]}.py')


class TestData:
    @pytest.mark.parametrize('name', CONFIGS)
    def test_missing(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cfg = open_config(name)
        with pytest.raises(FileNotFoundError) as error:
            check_data(cfg, ('train', 'val'))
        message = str(error.value)
        assert sum(s in message for s in DATA_SOURCES.values()) == 1
        assert cfg.train_dataloader.dataset.data_root in message
        assert '\n' not in message

    def test_parts(self, open_demo):
        cfg = open_demo('Instance Segmentation')
        dataset = cfg.train_dataloader.dataset
        dataset.ann_file = 'annotations/nothing.json'
        cfg.train_dataloader.dataset = ConfigDict(
            type='RepeatDataset', times=2, dataset=dataset
        )
        with pytest.raises(FileNotFoundError, match='annotations/nothing'):
            check_data(cfg, ('train',))
        (found,) = inspect_data(cfg, ('train',)).values()
        assert 'annotations/nothing.json' in found.problems[0]
        check_data(cfg, ('val',))


class TestClasses:
    @pytest.mark.parametrize(
        ('task', 'key', 'classes'),
        [
            ('Semantic Segmentation', 'decode_head', 7),
            ('Instance Segmentation', 'roi_head.mask_head', 6),
            ('Image Classification', 'head', 6),
        ],
    )
    def test_of_heads(self, task, key, classes, open_demo):
        cfg = open_demo(task)
        cfg.merge_from_dict({f'model.{key}.num_classes': 150})
        message = (
            f'model.{key}.num_classes is 150, and the data set of '
            f'train_dataloader has {classes} classes'
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            check_data(cfg, ('train',))
        found = inspect_data(cfg, ('train',))
        assert found['settings'].problems == [message]
        cfg.check_data = False
        check_data(cfg, ('train',))

    def test_that_are_folders(self, open_demo, tmp_path):
        """A folder that is missing moves all labels after it."""
        cfg = open_demo('Image Classification')
        for split, names in (('train', 'abc'), ('val', 'abd')):
            for name in names:
                (tmp_path / split / name).mkdir(parents=True)
            cfg[f'{split}_dataloader'].dataset = ConfigDict(
                type='CustomDataset', data_root=str(tmp_path / split)
            )
        cfg.model.head.num_classes = 3
        with pytest.raises(ValueError, match="class 2 is 'c' .* and 'd' in"):
            check_data(cfg, ('train', 'val'))


class TestAgreement:
    """Settings that must name the same thing are compared before a run."""

    @pytest.mark.parametrize(
        ('task', 'change', 'message'),
        [
            (
                'Object Detection',
                {'val_evaluator.ann_file': f'{ANNOTATIONS}_train2017.json'},
                f'val_evaluator reads {ANNOTATIONS}_train2017.json, and '
                f'val_dataloader {ANNOTATIONS}_val2017.json',
            ),
            (
                'Semantic Segmentation',
                {'val_dataloader.dataset.reduce_zero_label': False},
                'reduce_zero_label is True in train_dataloader, and False in '
                'val_dataloader',
            ),
        ],
    )
    def test_contradiction(self, task, change, message, open_demo):
        cfg = open_demo(task)
        cfg.merge_from_dict(change)
        with pytest.raises(ValueError, match=re.escape(message)):
            check_data(cfg, ('train', 'val'))
        found = inspect_data(cfg, ('train', 'val'))
        assert message in found['settings'].problems[0]
        cfg.check_data = False
        assert check_data(cfg, ('train', 'val')) == []

    @pytest.mark.parametrize('name', ['link', 'copy', 'remote'])
    def test_other_name_of_the_file(self, name, open_demo, tmp_path):
        cfg = open_demo('Instance Segmentation')
        path = Path(cfg.val_evaluator.ann_file)
        other = tmp_path / 'other.json'
        if name == 'link':
            other.symlink_to(path.absolute())
        else:
            other.write_bytes(path.read_bytes())
        remote = f's3://{path}'
        cfg.val_evaluator.ann_file = remote if name == 'remote' else str(other)
        assert check_data(cfg, ('val',)) == []

    @pytest.mark.parametrize('task', list(DEMOS)[:3])
    def test_training_images_in_the_validation(self, task, open_demo):
        cfg = open_demo(task)
        train, val = (
            cfg[f'{split}_dataloader'].dataset for split in ('train', 'val')
        )
        for key in ('data_root', 'data_prefix', 'ann_file'):
            if key in train:
                val[key] = train[key]
        if 'ann_file' in train and 'ann_file' in cfg.val_evaluator:
            cfg.val_evaluator.ann_file = train.data_root + train.ann_file
        (note,) = check_data(cfg, ('train', 'val'))
        assert note.startswith('val_dataloader reads data/demo/')
        assert 'with which the model is trained' in note
        val.indices = 2
        assert check_data(cfg, ('train', 'val')) == []


class TestForeignCheckpoint:
    """A file that shares no key with the model is an error."""

    def last_line(self, config, checkpoint, folder):
        output = call_tool(
            TOOLS / 'test.py', config, checkpoint, cwd=folder, code=1
        )
        return output.splitlines()[-1]

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
            (
                lambda w: w['decode_head.conv_seg.bias'].fill_(torch.nan),
                'conv_seg.bias has values that are not finite',
            ),
            (
                lambda w: (w.clear(), w.update(conv1=torch.ones(1))),
                'does not fit the model: it has conv1.*backbone.stem',
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
