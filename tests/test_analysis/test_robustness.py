import runpy
import sys

import cv2
import numpy as np
import pytest
from helpers import DEMOS, TOOLS, call_tool
from mmengine.registry import TRANSFORMS

from mmhatnet.analysis.report import read_csv
from mmhatnet.apis.zoo import load_model_config

imagecorruptions = pytest.importorskip('imagecorruptions')
TOOL = TOOLS / 'analysis_tools' / 'robustness.py'
CLASSIFIER = DEMOS['Image Classification']


def corrupted(image, kind, path='a.png', **others):
    step = TRANSFORMS.build(
        dict(type='mmhatnet.Corruption', kind=kind, **others)
    )
    return step(dict(img=image.copy(), img_path=path))['img']


@pytest.fixture
def image():
    random = np.random.default_rng(0)
    small = random.integers(60, 180, (9, 7, 3), np.uint8)
    return cv2.resize(small, (41, 53), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('kind', imagecorruptions.get_corruption_names('all'))
def test_same_for_every_model(kind, image):
    state = np.random.get_state()[1].copy()
    found = corrupted(image, kind)
    assert (found == corrupted(image, kind)).all()
    assert (np.random.get_state()[1] == state).all()
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert (found != image).any()
    assert (found != corrupted(image, kind, severity=5)).any()
    if 'noise' in kind:
        assert (found != corrupted(image, kind, 'b.png')).any()


def test_wrong_settings(image, monkeypatch):
    with pytest.raises(ValueError, match="no corruption 'rain': choose"):
        corrupted(image, 'rain')
    with pytest.raises(ValueError, match='must be from 1 to 5, got 0'):
        corrupted(image, 'fog', severity=0)
    with pytest.raises(ValueError, match='32x32 pixels or more: a.png'):
        corrupted(image[:31], 'fog')
    monkeypatch.setitem(sys.modules, 'imagecorruptions', None)
    with pytest.raises(ImportError, match='pip install imagecorruptions-'):
        corrupted(image, 'fog')


def test_conditions():
    change = runpy.run_path(TOOL)['change_images']
    cfg = load_model_config('fpn_hatnet-tiny_8xb2-80k_ade20k-512x512')
    found = change(cfg, 'fog', 96).test_dataloader.dataset.pipeline
    assert [step.type for step in found[:2]] == [
        'LoadImageFromFile',
        'mmhatnet.Corruption',
    ]
    assert tuple(found[2].scale) == (96, 96)
    assert change(cfg, 'none', 0).to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--scales', 16), 'at least 32x32'),
        (('--scales', 96), 'no step of the test pipeline has a scale'),
        (('--corruptions', 'rain'), "no corruption 'rain': choose from"),
        (('--g1', '8,0,8'), 'is not like 8,8,8'),
    ],
)
def test_errors_before_the_first_test(options, message, tmp_path):
    (tmp_path / 'x.pth').touch()
    output = call_tool(
        *(TOOL, CLASSIFIER, tmp_path / 'x.pth', *options),
        code=2 if 'is not' in message else 1,
        cwd=tmp_path,
    )
    assert message in output.splitlines()[-1]


@pytest.mark.slow
def test_tool(trained, demo_folder, tmp_path):
    """Each condition and setting once, also after a stop."""
    path = tmp_path / 'rows.csv'
    command = TOOL, CLASSIFIER, trained(CLASSIFIER), '--out', path
    command += '--g1', '8,7,7', '4,4,2', '--corruptions'
    output = call_tool(*command, 'fog', cwd=demo_folder)
    assert '| G1; G2 | as it is | fog |' in output
    rows = read_csv(path)
    settings = [(8, 7, 7), (4, 4, 2)]
    assert [(row['G1'], row['corruption']) for row in rows] == [
        (g1, kind) for kind in ('none', 'fog') for g1 in settings
    ]
    call_tool(*command, 'fog', 'contrast', cwd=demo_folder)
    assert read_csv(path)[:4] == rows
    assert len(read_csv(path)) == 6
