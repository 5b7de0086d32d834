"""Results that others measured, and their place in the zoo."""

import json

import pytest
import yaml
from helpers import ROOT, TOOLS, call_tool, import_page
from reproduction.experiments import (
    TABLE_6,
    find_experiment,
)
from reproduction.result import compare

from mmhatnet.engine.provenance import KEYS

STORE = TOOLS / 'pages' / 'reproductions.py'


class TestResultsOfOthers:
    @pytest.fixture
    def result(self):
        row = find_experiment(TABLE_6)
        measured = {'coco/bbox_mAP': 0.4512, 'coco/segm_mAP': 0.4155}
        return dict(
            row=row.name,
            table='Table 4',
            model=row.model,
            options={},
            smoke=False,
            seconds=3600,
            metrics=compare(row.printed, measured),
            all_metrics=measured | {'coco/bbox_mAP_50': 0.6},
            test_images=5000,
            curve=[dict(step=1, loss=0.5), {'step': 1, **measured}],
            training=[dict.fromkeys(KEYS, 0)],
            sha256=dict(config='a' * 64, checkpoint='0' * 64, pretrained=None),
            commit='1',
            changes=None,
            machine='8 GPUs',
            versions={},
            gpus=8,
        )

    def store(self, result, folder, code=0):
        path = folder / 'result.json'
        path.write_text(json.dumps(result))
        return call_tool(STORE, path, '--out', folder / 'stored', code=code)

    def test_stored(self, result, tmp_path):
        self.store(result, tmp_path)
        stored = tmp_path / 'stored' / f'{TABLE_6}.json'
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
            (dict(model='hatnet-tiny'), "model is 'hatnet-tiny' and not"),
            (dict(options=dict(a=1)), "options is {'a': 1} and not"),
        ],
    )
    def test_refused(self, change, message, result, tmp_path):
        assert message in self.store({**result, **change}, tmp_path, code=1)

    @pytest.mark.parametrize('measured', [-1.0, 101.0])
    def test_metrics_that_cannot_be(self, measured, result, tmp_path):
        values = {'coco/bbox_mAP': measured / 100, 'coco/segm_mAP': 0.4155}
        result['metrics'] = compare(find_experiment(TABLE_6).printed, values)
        result['all_metrics'] = values
        assert 'do not fit' in self.store(result, tmp_path, code=1)

    def test_incomplete(self, result, tmp_path):
        result['all_metrics']['x'] = float('inf')
        assert 'not JSON compliant' in self.store(result, tmp_path, code=1)
        del result['commit'], result['machine']
        output = self.store(result, tmp_path, code=1)
        assert 'result.json lacks commit, machine' in output
        assert not (tmp_path / 'stored').exists()

    @pytest.mark.parametrize('content', ['3', '[1]', 'null', '{', ''])
    def test_no_result(self, content, tmp_path):
        (tmp_path / 'x.json').write_text(content)
        output = call_tool(STORE, tmp_path / 'x.json', code=1)
        assert output.startswith('reproductions.py: error: ')
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
        values = {'coco/bbox_mAP': 0.4499, 'coco/segm_mAP': 0.4155}
        result['metrics'] = compare(row.printed, values)
        result['all_metrics'] = values
        self.store(result, tmp_path)
        assert f'| {name} | 45.1\\*; 44.99 |' in zoo.settings()
