import math
import re
from copy import deepcopy
from functools import cache
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from helpers import (
    DEMOS,
    ROOT,
    SMALL_ARCH,
    import_page,
    run_tool,
    slow_if_larger,
)
from mmengine.config import Config

import mmhatnet
from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.apis import zoo
from mmhatnet.utils.config import read_config
from mmhatnet.weights.releases import RELEASE_URL, RELEASES

FOLDERS = [
    folder.name
    for folder in sorted((ROOT / 'configs').iterdir())
    # Experiments have other backbones as well, so they are no models of ours.
    if folder.name not in ('_base_', 'evidence')
]
MODELS = zoo.model_entries()
CLASSIFIERS = zoo.list_models(task='Image Classification')
load_model_config = cache(zoo.load_model_config)


class TestMetafiles:
    def test_every_folder_is_in_the_index(self):
        index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
        assert sorted(index['Import']) == [
            f'configs/{folder}/metafile.yml' for folder in FOLDERS
        ]
        assert {model['In Collection'] for model in MODELS.values()} == {
            collection['Name'] for collection in index['Collections']
        }

    @pytest.mark.parametrize('folder', FOLDERS)
    def test_every_config_is_listed_once(self, folder):
        path = ROOT / 'configs' / folder
        models = yaml.safe_load((path / 'metafile.yml').read_text())['Models']
        listed = [model['Config'] for model in models]
        configs = [str(p.relative_to(ROOT)) for p in path.glob('*.py')]
        assert sorted(listed) == sorted(configs)
        for model in models:
            assert model['Config'].endswith(f'/{model["Name"]}.py')

    def test_modelindex_reads_them(self):
        """mim and mmpretrain read metafiles with it."""
        load = pytest.importorskip('modelindex.load_model_index').load
        index = load(str(ROOT / 'model-index.yml'))
        index.build_models_with_collections()
        assert {model.name for model in index.models} == set(MODELS)
        assert not [e for m in index.models for e in m.check_errors]

    @pytest.mark.default_stack
    @pytest.mark.parametrize(
        'name',
        [
            pytest.param(name, marks=slow_if_larger(name, MODELS))
            for name in MODELS
        ],
    )
    def test_numbers_match_get_flops(self, name):
        metadata = MODELS[name]['Metadata']
        shape = tuple(map(int, metadata['Input Size'].split('x')))
        result = measure_complexity(load_model_config(name), shape)
        assert metadata['FLOPs'] == result.operations
        assert metadata['Parameters'] == result.params

    @pytest.mark.parametrize('name', MODELS)
    def test_settings_match_the_config(self, name):
        cfg = load_model_config(name)
        metadata = MODELS[name]['Metadata']
        length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
        unit = 'Epochs' if 'max_epochs' in cfg.train_cfg else 'Iterations'
        assert metadata[unit] == length
        tasks = {
            'mmpretrain': {'Image Classification'},
            'mmseg': {'Semantic Segmentation'},
            'mmdet': {'Object Detection'},
        }[cfg.default_scope]
        if cfg.default_scope == 'mmdet' and 'mask' in name:
            tasks.add('Instance Segmentation')
        assert {result['Task'] for result in MODELS[name]['Results']} == tasks

    def test_released_weights(self):
        """Entries without the authors' files say that there are none."""
        for name, model in MODELS.items():
            said = model['Metadata']['Released Weights']
            if 'Training Log' in model['Metadata']:
                assert said == 'in the package'  # see test_shipped.py
            elif 'Weights' in model:
                arch = re.match(r'hatnet-(\w+)_8xb128_in1k$', name)[1]
                url = f'{RELEASE_URL}/{RELEASES[arch]}'
                assert model['Weights'] == url
                assert model['Converted From']['Weights'] == url
                assert said == 'from the authors'
            else:
                assert said.startswith('none')
                assert 'Converted From' not in model
            if 'Training Log' not in model['Metadata']:  # the paper's
                for result in model['Results']:
                    assert all(key[-1] == '*' for key in result['Metrics'])
        assert sum('Converted From' in m for m in MODELS.values()) == 4


@pytest.mark.default_stack
def test_tables_are_current():
    """The pages have the tables that tools/pages/model_zoo.py makes."""
    model_zoo = import_page('model_zoo')
    tables = 0
    for page in model_zoo.PAGES:
        text = (ROOT / page).read_text()
        assert model_zoo.with_tables(ROOT / page) == text
        tables += text.count('<!-- models: ')
    assert tables >= len(FOLDERS)
    for metafile in model_zoo.metafiles():
        text = metafile.with_name('README.md').read_text()
        assert model_zoo.readme(metafile) == text
        for model in yaml.safe_load(metafile.read_text())['Models']:
            metadata = model['Metadata']
            cfg = read_config(ROOT / model['Config'])
            if 'Training Log' in metadata:
                before = deepcopy(model)
                model_zoo.add_training(model, cfg)
                assert model == before
            assert metadata['Batch Size'] == cfg.auto_scale_lr.base_batch_size


def test_links_of_the_pages():
    """Links to files of the repository and to headings of a page."""
    pages = [
        ROOT / 'README.md',
        *(ROOT / 'docs').glob('*.md'),
        *(ROOT / 'configs').glob('*/README.md'),
    ]
    links = 0
    for page in pages:
        for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = page.parent / parts.path if parts.path else page
            assert target.exists(), (page, link)
            if parts.fragment:
                headings = re.findall(r'^#+ (.*)$', target.read_text(), re.M)
                anchors = [
                    re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
                    for heading in headings
                ]
                assert parts.fragment in anchors, (page, link)
            links += 1
    assert links > len(MODELS)


class TestNames:
    def test_list(self):
        assert mmhatnet.list_models() == sorted(MODELS)
        assert mmhatnet.list_models('mask-rcnn_hatnet-s') == [
            'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco',
            'mask-rcnn_hatnet-small_fpn_8xb2-amp-1x_coco',
        ]
        assert mmhatnet.list_models('*ade20k', 'semantic segmentation')
        assert not mmhatnet.list_models('*ade20k', 'object detection')
        with pytest.raises(ValueError, match="'Pose'.* Semantic Segmentation"):
            mmhatnet.list_models(task='Pose')

    def test_mmpretrain_finds_the_classifiers(self):
        from mmpretrain import ImageClassificationInferencer, get_model

        names = ImageClassificationInferencer.list_models('*')
        assert set(CLASSIFIERS) <= set(names)
        model = get_model(CLASSIFIERS[-1], backbone=dict(ds_ratios=(4, 2, 1)))
        assert model.backbone.ds_ratios == (4, 2, 1)

    def test_import_by_a_config(self):
        """The URLs of the weights are registered; no library is imported."""
        code = (
            'import sys, torch\n'
            'from mmengine.registry import MODELS\n'
            'from mmengine.runner import CheckpointLoader as Loader\n'
            'with torch.device("meta"):\n'
            '    MODELS.build(dict(type="mmhatnet.HATNet", arch="tiny"))\n'
            'print({"mmpretrain", "mmseg", "mmdet"} & set(sys.modules))\n'
            'print("hatnet://" in Loader._schemes)'
        )
        assert run_tool('-c', code).splitlines()[-2:] == ['set()', 'True']

    def test_unknown_name(self):
        with pytest.raises(ValueError, match="no model 'hatnet-tiny'.*_in1k"):
            mmhatnet.get_model('hatnet-tiny')
        with pytest.raises(FileNotFoundError, match=r'no config at .*x\.py'):
            mmhatnet.get_model('x.py')

    def test_name_config_file_and_config(self):
        name = DEMOS['Image Classification']
        path = ROOT / MODELS[name]['Config']
        for model in (name, path, str(path), read_config(path)):
            built = mmhatnet.get_model(model, backbone=dict(arch='small'))
            assert built.backbone.embed_dims == (64, 128, 320, 512)
            assert not built.training
        # The passed config is unchanged.
        assert isinstance(model, Config)
        assert model.model.backbone.arch == 'tiny'

    def test_config_without_a_scope(self):
        backbone = dict(type='mmhatnet.HATNet', arch=SMALL_ARCH)
        model = dict(type='mmpretrain.ImageClassifier', backbone=backbone)
        cfg = Config(dict(model=model, test_dataloader=None))
        assert mmhatnet.get_model(cfg).backbone.embed_dims[-1] == 24
        with pytest.raises(ValueError, match='need default_scope in the con'):
            mmhatnet.get_inferencer(cfg, 'x.pth')


class TestWeights:
    def test_no_released_weights(self):
        name = DEMOS['Object Detection']
        with pytest.raises(ValueError, match='no released weights'):
            mmhatnet.get_model(name, pretrained=True)
        with pytest.raises(ValueError, match='no released weights'):
            mmhatnet.get_inferencer(name)
        with pytest.raises(ValueError, match='config file needs a checkpoint'):
            mmhatnet.get_inferencer(ROOT / MODELS[name]['Config'])

    def test_loading(self, trained):
        name = DEMOS['Semantic Segmentation']
        expected = torch.load(trained(name))
        model = mmhatnet.get_model(name, pretrained=trained(name))
        torch.testing.assert_close(model.state_dict(), expected['state_dict'])
        classes = expected['meta']['dataset_meta']['classes']
        assert model.dataset_meta['classes'] == classes

    @pytest.mark.parametrize('name', DEMOS.values())
    def test_wrong_weights(self, name, trained, tmp_path):
        path = str(tmp_path / 'other.pth')
        weights = torch.load(trained(name))['state_dict']
        missing, value = weights.popitem()
        changed, value = weights.popitem()
        weights.update({changed: value[..., None], 'other': value})
        torch.save(dict(state_dict=weights), path)
        message = (
            f'{path}.*missing: {missing}; unexpected: other; '
            f'wrong shape: {changed}'
        )
        for get in (mmhatnet.get_model, mmhatnet.get_inferencer):
            with pytest.raises(ValueError, match=message):
                get(name, path)


def test_initial_weights():
    """As the runner draws them, without the weights that a config names."""
    name = DEMOS['Object Detection']
    cfg = zoo.load_model_config(name)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='gone')
    model = zoo.get_model(cfg)
    bias = model.bbox_head.retina_cls.bias
    torch.testing.assert_close(bias, torch.full_like(bias, -math.log(99)))
    weight = model.backbone.stages[3][0].mlp.fc1.weight
    assert abs(weight.std() - 0.0176) < 1e-3
