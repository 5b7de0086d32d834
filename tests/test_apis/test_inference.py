import functools
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from helpers import DEMOS, TOOLS, call_tool
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from PIL import Image

import mmhatnet
from mmhatnet.apis.inference import predict
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.runtime.arrays import apply_step
from mmhatnet.runtime.images import read_image

INFER = TOOLS / 'infer.py'
DEMO = DEMOS['Image Classification']
HERE = __file__
LIBRARIES = {
    'Image Classification': 'mmpretrain.apis.image_classification',
    'Semantic Segmentation': 'mmseg.apis.mmseg_inferencer',
    'Object Detection': 'mmdet.apis.det_inferencer',
    'Instance Segmentation': 'mmdet.apis.det_inferencer',
}


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'image.png'
    noise = np.random.RandomState(0).randint(0, 256, (90, 110, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def current_scope():
    return getattr(DefaultScope.get_current_instance(), 'scope_name', None)


@pytest.fixture(scope='module')
def get_inferencer(trained):
    """Function that builds the inferencer of a demo model."""

    @functools.cache
    def build(task):
        before = current_scope()
        name = DEMOS[task]
        inferencer = mmhatnet.get_inferencer(name, trained(name), 'cpu')
        assert current_scope() == before
        return inferencer

    return build


@pytest.mark.parametrize('task', DEMOS)
def test_predictions_of_the_libraries_inferencers(
    task, image, trained, get_inferencer
):
    inferencer = get_inferencer(task)
    assert type(inferencer).__module__ == LIBRARIES[task]
    expected = torch.load(trained(DEMOS[task]))['state_dict']
    torch.testing.assert_close(inferencer.model.state_dict(), expected)
    before = current_scope()
    result, picture, labels = predict(inferencer, image, score_thr=0.0, top=3)
    assert current_scope() == before
    json.dumps(result)
    again, *_ = predict(inferencer, read_image(image), score_thr=0.0, top=3)
    assert again == result  # of an array, such as the frame of a video
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    if task == 'Image Classification':
        scores = [found['score'] for found in result['classes']]
        pixels = torch.tensor(np.array(Image.open(image))).permute(2, 0, 1)
        data = inferencer.model.data_preprocessor(
            # The pipelines load BGR.
            dict(inputs=pixels.flip(0)[None])
        )
        with torch.no_grad():
            logits = inferencer.model(data['inputs'])
        torch.testing.assert_close(
            torch.tensor(scores),
            logits.softmax(1)[0].sort().values.flip(0)[:3],
        )
        assert labels is None
    elif task == 'Semantic Segmentation':
        assert picture.shape == (270, 330, 3)  # large enough for text
        assert labels.shape == (90, 110)
        names = inferencer.model.dataset_meta['classes']
        shares = []
        for found in result['classes']:
            shares.append((labels == found['label']).mean())
            assert found['share'] == pytest.approx(shares[-1])
            assert found['name'] == names[found['label']]
        assert sum(shares) == pytest.approx(1)
    else:
        assert picture.shape == (270, 330, 3)
        assert result['objects']
        scores = [found['score'] for found in result['objects']]
        for found in result['objects']:
            x1, y1, x2, y2 = found['bbox']
            assert 0 <= x1 <= x2 <= 110
            assert 0 <= y1 <= y2 <= 90
            assert ('mask' in found) == (task == 'Instance Segmentation')
        fewer, *_ = predict(inferencer, image, score_thr=sorted(scores)[-2])
        assert len(fewer['objects']) == 2


def test_long_strip(get_inferencer, tmp_path):
    """Pipelines that enlarge the shorter side would need gigabytes."""
    path = tmp_path / 'strip.png'
    Image.new('RGB', (20000, 1)).save(path)
    with pytest.raises(ValueError, match='times as long'):
        predict(get_inferencer('Image Classification'), path)
    step = dict(step='resize_short_edge', scale=256, backend='cv2')
    step['interpolation'] = 'bicubic'
    with pytest.raises(ValueError, match='would become 5120000x256'):
        apply_step(np.zeros((1, 20000, 3), np.uint8), step)


def test_threads(image, get_inferencer):
    """Threads that share inferencers find what one thread finds."""

    def find(task):
        result, picture, labels = predict(get_inferencer(task), image, 0)
        return json.dumps(result), picture.tolist(), np.array(labels).tolist()

    expected = list(map(find, DEMOS))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(find, [*DEMOS] * 4)) == expected * 4


def test_threads_that_load(trained):
    names = [*DEMOS.values()] * 2
    with ThreadPoolExecutor(4) as pool:
        files = map(trained, names)
        found = pool.map(mmhatnet.get_inferencer, names, files)
    kinds = [type(each).__module__ for each in found]
    assert kinds == [*LIBRARIES.values()] * 2


@pytest.mark.parametrize('task', list(DEMOS)[1:])
def test_checkpoint_without_classes(task, trained):
    """The classes are the config's, not those of Cityscapes or COCO."""
    checkpoint = trained(DEMOS[task], with_meta=False)
    inferencer = mmhatnet.get_inferencer(DEMOS[task], checkpoint, 'cpu')
    assert 'triangle' in inferencer.model.dataset_meta['classes']
    assert 'triangle' in inferencer.visualizer.dataset_meta['classes']


def test_libraries_read_configs_that_inherit_ours(tmp_path):
    """After ``import mmhatnet`` and nothing else."""
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmhatnet::demo/{DEMO}.py'\n")
    assert "'_scope_': 'mmhatnet'" not in str(Config.fromfile(path))


@pytest.mark.parametrize(
    'task', ['Image Classification', 'Semantic Segmentation']
)
def test_without_test_data(task, image, trained, get_inferencer):
    """The validation's pipeline is used; a model needs none."""
    expected, *_ = predict(get_inferencer(task), image)
    cfg = load_model_config(DEMOS[task])
    cfg.test_dataloader, loader = None, cfg.val_dataloader
    wrapped = dict(type='ConcatDataset', datasets=[loader.dataset] * 2)
    loader.dataset = ConfigDict(wrapped)
    checkpoint = trained(DEMOS[task])
    inferencer = mmhatnet.get_inferencer(cfg, checkpoint, 'cpu')
    assert predict(inferencer, image)[0] == expected
    cfg.val_dataloader = None
    with pytest.raises(ValueError, match='no data set in test_dataloader or'):
        mmhatnet.get_inferencer(cfg, checkpoint, 'cpu')
    assert mmhatnet.get_model(cfg).dataset_meta == {}


@pytest.mark.parametrize('task', list(DEMOS)[:3])
@pytest.mark.parametrize('channels', [1, 4])
def test_other_channels(channels, task, image, tmp_path):
    """Grey images and images with alpha, which pictures do not show."""
    modes = {1: ('grayscale', 'L'), 4: ('unchanged', 'RGBA')}
    color_type, mode = modes[channels]
    cfg = load_model_config(DEMOS[task])
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform.type == 'LoadImageFromFile':
            transform.color_type = color_type
    cfg.model.backbone.in_channels = channels
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    preprocessor.update(mean=[99.0], std=[55.0])
    for key in ('to_rgb', 'bgr_to_rgb'):
        if key in preprocessor:
            preprocessor[key] = False
    weights = str(tmp_path / 'random.pth')
    torch.save(mmhatnet.get_model(cfg).state_dict(), weights)
    with Image.open(image) as opened:
        opened.convert(mode).save(tmp_path / 'image.png')
    inferencer = mmhatnet.get_inferencer(cfg, weights, 'cpu')
    result, picture, labels = predict(inferencer, tmp_path / 'image.png', 0)
    assert result
    assert picture.shape[2] == 3
    assert (labels is not None) == (task == 'Semantic Segmentation')
    if channels == 1:  # as for the frames of a video
        grey = cv2.imread(str(tmp_path / 'image.png'))
        assert predict(inferencer, grey, 0)[0] == result


class TestTool:
    @pytest.mark.parametrize(
        'task', ['Semantic Segmentation', 'Instance Segmentation']
    )
    def test_results(self, task, image, trained, get_inferencer, tmp_path):
        printed = call_tool(
            *(INFER, DEMOS[task], trained(DEMOS[task]), image),
            *('--out-dir', tmp_path / 'new' / 'out', '--device', 'cpu'),
            *('--score-thr', 0),
        )
        names = {'image.png', 'image.json'}
        if task == 'Semantic Segmentation':
            names.add('image_labels.png')
        out = tmp_path / 'new' / 'out'
        assert set(os.listdir(out)) == names
        content = json.loads((out / 'image.json').read_text())
        assert content.pop('image') == str(image)
        expected, picture, labels = predict(get_inferencer(task), image, 0)
        assert content == expected
        if labels is not None:
            with Image.open(out / 'image_labels.png') as saved:
                assert (np.array(saved) == labels).all()
                shown = np.array(saved.convert('RGB'))
            for found in expected['classes']:
                colours = shown[labels == found['label']]
                assert (colours == found['color']).all()
        with Image.open(out / 'image.png') as saved:
            assert np.array(saved).shape == picture.shape
        assert '1 result in' in printed

    def test_unreadable_images(self, image, trained, tmp_path):
        folder = tmp_path / 'images'
        folder.mkdir()
        shutil.copy(image, folder)
        (folder / 'broken.jpg').write_text('no image')
        odd = Image.fromarray(np.ones((40, 50), np.int32))
        odd.save(folder / 'depth.tiff')
        Image.new('RGB', (10000, 2)).save(folder / 'line.png')
        out = tmp_path / 'out'
        arguments = DEMO, trained(DEMO), folder, '--out-dir', out
        printed = call_tool(INFER, *arguments, code=1)
        assert {'image.png', 'image.json'} <= set(os.listdir(out))
        assert 'broken.jpg: skipped: ' in printed
        last = printed.splitlines()[-1]
        skipped = printed.count(': skipped: ')
        assert last == f'{skipped} of 4 files were skipped'

    def test_nothing_is_overwritten(self, image, trained, tmp_path):
        """Neither an image nor the file of another run, unless asked to."""
        folder = tmp_path / 'photos'
        folder.mkdir()
        shutil.copy(image, folder / 'a.png')
        command = INFER, DEMO, trained(DEMO), folder, '--out-dir', folder
        before = (folder / 'a.png').read_bytes()
        call_tool(*command)
        assert (folder / 'a.png').read_bytes() == before
        assert set(os.listdir(folder)) == {'a.png', 'a_2.png', 'a_2.json'}
        command = INFER, DEMO, trained(DEMO), image, '--out-dir', folder
        (folder / 'image.json').write_text('mine')
        last = call_tool(*command, code=1).splitlines()[-1]
        assert f'{folder / "image.json"} exists: choose' in last
        assert (folder / 'image.json').read_text() == 'mine'
        call_tool(*command, '--overwrite')
        assert (folder / 'image.json').read_text() != 'mine'

    @pytest.mark.parametrize(
        ('arguments', 'code', 'message'),
        [
            ([DEMO, 'no.png'], 1, 'no image at no.png'),
            ([DEMO, 'x.BIN'], 2, 'no images'),
            ([DEMO, 'x.pth', HERE], 1, 'x.pth'),
            (['hatnet-tiny', HERE], 1, "no model 'hatnet-tiny'"),
            ([DEMO, HERE], 1, 'has no released weights'),
            ([DEMO, 'x.pth', HERE, '--device', 'gpu'], 1, "no device 'gpu'"),
            ([DEMO, 'x.pth', HERE, '--out-dir', f'{HERE}/x'], 1, 'is a file'),
        ],
    )
    def test_wrong_arguments(self, arguments, code, message):
        last = call_tool(INFER, *arguments, code=code).splitlines()[-1]
        assert last.startswith('infer.py: error: ')
        assert message in last
