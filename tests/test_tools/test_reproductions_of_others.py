"""Results that others measured, and their place in the zoo."""

import json

import pytest
import yaml
from helpers import ROOT, import_page
from reproduction.experiments import TABLE_6, find_experiment
from reproduction.result import compare

from mmhatnet.engine.provenance import KEYS


def measured(name, box, mask=0.4155):
    """The part of a result that a test measures."""
    row, values = find_experiment(name), {'coco/segm_mAP': mask}
    values['coco/bbox_mAP'] = box
    return dict(
        row=name,
        table=row.table,
        options=row.options,
        metrics=compare(row.printed, values),
        all_metrics=values,
    )


@pytest.fixture
def result():
    return dict(
        **measured(TABLE_6, 0.4512),
        model=TABLE_6,
        smoke=False,
        seconds=3600,
        test_images=5000,
        curve=[dict(step=1, loss=0.5)],
        training=[dict.fromkeys(KEYS, 0)],
        sha256=dict(config='a' * 64, checkpoint='0' * 64, pretrained=None),
        commit='1',
        changes=None,
        machine='8 GPUs',
        versions={},
        gpus=8,
    )


@pytest.fixture
def store(tmp_path):
    """Function that stores a result in a folder."""

    def run(result):
        path = tmp_path / 'result.json'
        path.write_text(json.dumps(result))
        return import_page('model_zoo').store(path, tmp_path / 'out')

    return run


def test_refused(result, store, tmp_path):
    for change, message in (
        (dict(smoke=True), 'of a smoke test'),
        (dict(row='x'), "no row 'x'"),
        (dict(metrics={}), 'do not fit'),
        (dict(all_metrics={'coco/bbox_mAP': 0.5}), 'do not fit'),
        (dict(all_metrics={'coco/bbox_mAP': '1'}), 'do not fit'),
        (measured(TABLE_6, 1.01), 'do not fit'),
        (dict(model='hatnet-tiny'), "model is 'hatnet-tiny' and not"),
        (dict(seconds=float('inf')), 'not JSON compliant'),
    ):
        with pytest.raises(ValueError, match=message):
            store(result | change)
    del result['commit'], result['machine']
    for damaged, message in (
        (result, 'json lacks commit, machine'),
        (3, 'is not a result'),
    ):
        with pytest.raises(ValueError, match=message):
            store(damaged)
    assert not list(tmp_path.glob('out/*'))


def test_in_the_zoo(result, store, tmp_path, monkeypatch):
    """Beside the number of the paper, never typed."""
    stored = store(result)
    assert json.loads(stored.read_text()) == result
    zoo = import_page('model_zoo')
    monkeypatch.setattr(zoo, 'RESULTS', tmp_path / 'out')
    metafile = ROOT / 'configs' / 'mask_rcnn' / 'metafile.yml'
    content = yaml.safe_load(metafile.read_text())
    content['Models'] = [x for x in content['Models'] if x['Name'] == TABLE_6]
    text = zoo.update(yaml.safe_dump(content))
    (tmp_path / 'metafile.yml').write_text(text)
    table = zoo.table(tmp_path / 'metafile.yml', '')
    assert 'box AP, measured' in table
    assert '| 45.2\\* | 45.12 |' in table
    stored.unlink()
    assert '45.12' not in zoo.update(text)
    name = 'table6_g1-4-4-4_g2-16-8-4_tested'
    store(result | measured(name, 0.4499))
    assert f'| {name} | 45.1\\*; 44.99 |' in zoo.settings()
