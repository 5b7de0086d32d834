"""The small models whose weights are in the package."""

import json
import shutil

import pytest
import yaml
from helpers import ROOT
from mmengine.runner import CheckpointLoader

import mmhatnet
from mmhatnet.apis.zoo import model_entries
from mmhatnet.engine.runner import build_runner
from mmhatnet.utils.config import read_config
from mmhatnet.utils.hashes import sha256_of
from mmhatnet.weights import releases
from mmhatnet.weights.files import read_checkpoint

NAMES = list(releases.list_shipped())
METRICS = {
    'cifar10-classifier': 'accuracy/top1',
    'shape-segmentor': 'mIoU',
    'tree-detector': 'coco/bbox_mAP_50',
}


def read_log(model):
    return json.loads((ROOT / model['Metadata']['Training Log']).read_text())


def test_every_file_has_an_entry():
    path = ROOT / 'configs' / 'shipped' / 'metafile.yml'
    models = yaml.safe_load(path.read_text())['Models']
    assert sorted(NAMES) == sorted(model['Name'] for model in models)
    for model in models:
        assert model['Weights'] == f'hatnet://{model["Name"]}'
        log = read_log(model)
        assert log['config'] in model['Metadata']['Training Command']
        assert log['commit'] == model['Metadata']['Trained At Commit']
        digest = sha256_of(releases.list_shipped()[model['Name']])
        assert digest == model['Metadata']['SHA256']


def test_size_of_all_files():
    sizes = [p.stat().st_size for p in releases.list_shipped().values()]
    assert sum(sizes) < 12e6


@pytest.mark.parametrize('name', NAMES)
def test_files_hold_no_more_than_weights(name):
    content = read_checkpoint(f'hatnet://{name}')
    assert content.keys() == {'meta', 'state_dict'}
    assert str(ROOT) not in str(content['meta'])
    assert "\nwork_dir = '/" not in content['meta']['cfg']
    assert {str(v.dtype) for v in content['state_dict'].values()} <= {
        'torch.float16',
        'torch.int64',
    }
    model = mmhatnet.get_model(name, pretrained=True)
    assert model.dataset_meta['classes']


def test_damaged_file(tmp_path, monkeypatch):
    path = next(iter(releases.list_shipped().values()))
    copy = shutil.copy(path, tmp_path / path.name)
    monkeypatch.setattr(releases, 'SHIPPED', tmp_path)
    name = f'hatnet://{NAMES[0]}'
    assert 'state_dict' in CheckpointLoader.load_checkpoint(name)
    with open(copy, 'r+b') as file:
        file.seek(1000)
        file.write(b'damaged')
    with pytest.raises(ValueError, match='is damaged: install mmhatnet again'):
        CheckpointLoader.load_checkpoint(name)
    with pytest.raises(ValueError, match=f"'hatnet://x'.*{name}"):
        CheckpointLoader.load_checkpoint('hatnet://x')


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_metric(name, tmp_path, monkeypatch):
    """As in the log, on the held-out data, where they are present."""
    log = read_log(model_entries()[name])
    cfg = read_config(ROOT / 'configs' / 'evidence' / f'{log["config"]}.py')
    monkeypatch.chdir(ROOT)
    dataset = cfg.test_dataloader.dataset
    if not (ROOT / dataset.data_root).exists():
        pytest.skip(f'{dataset.data_root} is absent')
    cfg.update(work_dir=str(tmp_path), load_from=f'hatnet://{name}')
    metrics = build_runner(cfg, ('test',)).test()
    last = log['curve'][-1]
    key = METRICS[name]
    # float16 moves some of the predictions at a threshold.
    assert metrics[key] == pytest.approx(last[key], rel=0.01)
