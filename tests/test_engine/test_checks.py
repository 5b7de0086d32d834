"""Missing data, and settings that contradict each other, are found."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import CONFIGS, DEMOS, open_config
from mmengine.config import Config, ConfigDict

from mmhatnet.engine.checks import DATA_SOURCES, check_data, inspect_data

SPLITS = 'train', 'val', 'test'


@pytest.fixture
def open_demo(demo_folder, monkeypatch):
    monkeypatch.chdir(demo_folder)
    return lambda task: open_config(f'demo/{DEMOS[task]}.py')


@pytest.mark.parametrize('name', CONFIGS)
def test_missing_data(name, tmp_path, monkeypatch):
    """The message says how to get them; the config has no other fault."""
    monkeypatch.chdir(tmp_path)
    cfg = open_config(name)
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('train', 'val'))
    message = str(error.value)
    assert sum(map(message.endswith, DATA_SOURCES.values())) == 1
    assert cfg.train_dataloader.dataset.data_root in message
    assert '\n' not in message
    settings = inspect_data(cfg, SPLITS)['settings']
    assert (settings.problems, settings.notes) == ([], [])


@pytest.mark.parametrize(
    'pattern',
    [
        'mmdet/cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_*',
        'mmdet/mm_grounding_dino/*swin-t_pretrain_obj365',
        'mmdet/mask2former/mask2former_r50_*-panoptic',
        'mmdet/ocsort/*halfval',
        'mmdet/panoptic_fpn/panoptic-fpn_r50_fpn_1x_*',
        'mmdet/soft_teacher/*-0.1-coco',
        'mmseg/point_rend/pointrend_r50_*_ade20k-*',
        'mmseg/stdc/stdc1_4*',
    ],
)
def test_configs_of_the_libraries(pattern, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    library, _, pattern = pattern.partition('/')
    folder = Path(find_spec(library).origin).parent / '.mim' / 'configs'
    (path,) = folder.glob(f'{pattern}.py')
    cfg = Config.fromfile(path)
    settings = inspect_data(cfg, SPLITS, quick=True)['settings']
    assert (settings.problems, settings.notes) == ([], [])


def test_data_from_elsewhere(tmp_path, monkeypatch):
    """They are not absent; mmpretrain downloads CIFAR-10 when it needs it."""
    monkeypatch.chdir(tmp_path)
    cfg = open_config(f'demo/{DEMOS["Image Classification"]}.py')
    dataset = dict(type='CIFAR10', data_root='data/cifar10', split='train')
    cfg.train_dataloader.dataset = ConfigDict(dataset)
    cfg.model.head.num_classes = 10
    assert check_data(cfg, ('train',)) == []
    cfg.train_dataloader.dataset.download = False
    with pytest.raises(FileNotFoundError, match='no data at data/cifar10'):
        check_data(cfg, ('train',))
    cfg = open_config(f'demo/{DEMOS["Semantic Segmentation"]}.py')
    cfg.train_dataloader.dataset.backend_args = dict(backend='petrel')
    assert 'not local' in check_data(cfg, ('train',))[0]


def test_parts(open_demo):
    cfg = open_demo('Instance Segmentation')
    loader = cfg.train_dataloader
    loader.dataset.ann_file = 'annotations/nothing.json'
    loader.dataset = dict(type='RepeatDataset', dataset=loader.dataset)
    with pytest.raises(FileNotFoundError, match='annotations/nothing'):
        check_data(cfg, ('train',))
    found, _ = inspect_data(cfg, ('train',)).values()
    assert 'annotations/nothing.json' in found.problems[0]
    check_data(cfg, ('val',))


@pytest.mark.parametrize(
    ('task', 'head', 'classes'),
    [
        ('Semantic Segmentation', 'decode_head', 7),
        ('Instance Segmentation', 'roi_head.mask_head', 6),
        ('Image Classification', 'head', 6),
    ],
)
def test_classes_of_heads(task, head, classes, open_demo):
    cfg = open_demo(task)
    cfg.merge_from_dict({f'model.{head}.num_classes': 150})
    message = f'{head}.num_classes is 150, .* train.* has {classes} classes'
    with pytest.raises(ValueError, match=message):
        check_data(cfg, ('train', 'val'))
    cfg.check_data = False
    assert check_data(cfg, ('train', 'val')) == []


def test_classes_of_auxiliary_heads(open_demo):
    cfg = open_demo('Semantic Segmentation')
    cfg.model.auxiliary_head = [dict(num_classes=7), dict(num_classes=150)]
    message = r'model.auxiliary_head.1.num_classes is 150, .* has 7 classes'
    with pytest.raises(ValueError, match=message):
        check_data(cfg, ('train',))


def test_classes_that_are_folders(open_demo, tmp_path):
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


@pytest.mark.parametrize('task', list(DEMOS)[:3])
def test_training_images_in_the_validation(task, open_demo):
    cfg = open_demo(task)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    for key in train.keys() & {'data_root', 'data_prefix', 'ann_file'}:
        val[key] = train[key]
    (note,) = check_data(cfg, ('train', 'val'))
    assert note.startswith('val_dataloader reads data/demo/')
    val.indices = 2
    assert check_data(cfg, ('train', 'val')) == []
