"""Results that others measured, and their place in the zoo."""

import json
import re

import pytest
import yaml
from helpers import ROOT, TOOLS, call_tool, import_page
from reproduction.experiments import TABLE_6, find_experiment
from reproduction.result import compare

from mmhatnet.engine.provenance import KEYS

STORE = TOOLS / 'pages' / 'model_zoo.py'


def measured(row, box, mask=0.4155):
    """The part of a result that a test measures."""
    values = {'coco/bbox_mAP': box, 'coco/segm_mAP': mask}
    metrics = compare(find_experiment(row).printed, values)
    return dict(metrics=metrics, all_metrics=values)


class TestResultsOfOthers:
    @pytest.fixture
    def result(self):
        row = find_experiment(TABLE_6)
        found = measured(TABLE_6, 0.4512)
        values = found['all_metrics']
        return dict(
            row=row.name,
            table='Table 4',
            model=row.model,
            options={},
            smoke=False,
            seconds=3600,
            metrics=found['metrics'],
            all_metrics=values | {'coco/bbox_mAP_50': 0.6},
            test_images=5000,
            curve=[dict(step=1, loss=0.5), {'step': 1, **values}],
            training=[dict.fromkeys(KEYS, 0)],
            sha256=dict(config='a' * 64, checkpoint='0' * 64, pretrained=None),
            commit='1',
            changes=None,
            machine='8 GPUs',
            versions={},
            gpus=8,
        )

    def store(self, result, folder):
        path = folder / 'result.json'
        path.write_text(json.dumps(result))
        return import_page('model_zoo').store(path, folder / 'stored')

    def test_stored(self, result, tmp_path):
        stored = self.store(result, tmp_path)
        assert stored.name == f'{TABLE_6}.json'
        assert json.loads(stored.read_text()) == result

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (dict(smoke=True), 'of a smoke test'),
            (dict(row='x'), "no row 'x'"),
            (dict(metrics={}), 'do not fit'),
            (dict(metrics=[1]), 'do not fit'),
            (dict(all_metrics={'coco/bbox_mAP': 0.5}), 'do not fit'),
            (dict(all_metrics={'coco/bbox_mAP': '1'}), 'do not fit'),
            (measured(TABLE_6, -0.01), 'do not fit'),
            (measured(TABLE_6, 1.01), 'do not fit'),
            (dict(model='hatnet-tiny'), "model is 'hatnet-tiny' and not"),
            (dict(options=dict(a=1)), "options is {'a': 1} and not"),
        ],
    )
    def test_refused(self, change, message, result, tmp_path):
        with pytest.raises(ValueError, match=re.escape(message)):
            self.store({**result, **change}, tmp_path)

    def test_incomplete(self, result, tmp_path):
        result['all_metrics']['x'] = float('inf')
        with pytest.raises(ValueError, match='not JSON compliant'):
            self.store(result, tmp_path)
        del result['commit'], result['machine']
        with pytest.raises(ValueError, match='json lacks commit, machine'):
            self.store(result, tmp_path)
        assert not (tmp_path / 'stored').exists()

    @pytest.mark.parametrize('content', ['3', '[1]', 'null', '{', ''])
    def test_no_result(self, content, tmp_path):
        (tmp_path / 'x.json').write_text(content)
        output = call_tool(STORE, '--add', tmp_path / 'x.json', code=1)
        assert output.startswith('model_zoo.py: error: ')
        assert len(output.splitlines()) == 1

    def test_in_the_zoo(self, result, tmp_path, monkeypatch):
        """Beside the number of the paper, never typed."""
        self.store(result, tmp_path)
        zoo = import_page('model_zoo')
        monkeypatch.setattr(zoo, 'RESULTS', tmp_path / 'stored')
        metafile = ROOT / 'configs' / 'mask_rcnn' / 'metafile.yml'
        content = yaml.safe_load(metafile.read_text())
        content['Models'] = [
            x for x in content['Models'] if x['Name'] == TABLE_6
        ]
        text = zoo.update(yaml.safe_dump(content))
        (tmp_path / 'metafile.yml').write_text(text)
        table = zoo.table(tmp_path / 'metafile.yml', '')
        assert 'box AP, measured' in table
        assert '| 45.2\\* | 45.12 |' in table
        (tmp_path / 'stored' / f'{TABLE_6}.json').unlink()
        assert '45.12' not in zoo.update(text)
        name = 'table6_g1-4-4-4_g2-16-8-4_tested'
        row = find_experiment(name)
        result.update(row=name, table=row.table, options=row.options)
        result.update(measured(name, 0.4499))
        self.store(result, tmp_path)
        assert f'| {name} | 45.1\\*; 44.99 |' in zoo.settings()
