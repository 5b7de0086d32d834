import cv2
import numpy as np
import pytest
from helpers import DEMOS, TOOLS, call_tool
from mmengine.registry import TRANSFORMS

from mmhatnet.analysis.report import read_csv
from mmhatnet.analysis.robustness import (
    corrupt,
    measure_robustness,
    resize,
)
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.datasets.corruption import CORRUPTIONS

TOOL = TOOLS / 'analysis_tools' / 'robustness.py'
CLASSIFIER = DEMOS['Image Classification']


def corrupted(kind, image, path='a.png', **others):
    step = TRANSFORMS.build(
        dict(type='mmhatnet.Corruption', kind=kind, **others)
    )
    return step(dict(img=image.copy(), img_path=path))['img']


@pytest.fixture
def image():
    random = np.random.default_rng(0)
    small = random.integers(60, 180, (9, 7, 3), np.uint8)
    return cv2.resize(small, (41, 53), interpolation=cv2.INTER_CUBIC)


class TestCorruption:
    @pytest.mark.parametrize('kind', CORRUPTIONS)
    def test_same_for_every_model(self, kind, image):
        found = corrupted(kind, image)
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert (found != image).any()
        assert (found == corrupted(kind, image)).all()

    def test_noise(self, image):
        found = corrupted('noise', image, level=10).astype(float)
        assert (found - image).std() == pytest.approx(10, rel=0.05)
        other = corrupted('noise', image, 'b.png', level=10)
        assert (found != other).any()

    def test_blur_and_pixelate(self, image):
        # A step of an edge spreads to a Gaussian's sum.
        edge = np.repeat([[0], [200]], 20, 0).astype(np.uint8)
        edge = np.tile(edge[..., None], (1, 40, 3))
        found = corrupted('blur', edge, level=2)
        assert found[19, 20, 0] == pytest.approx(80, abs=3)
        blocks = corrupted('pixelate', edge[:, :, :], level=8)
        assert len(np.unique(blocks[:, 0, 0])) <= 5

    def test_light(self, image):
        found = corrupted('brightness', image, level=-30)
        assert (found == image - 30).all()
        found = corrupted('contrast', image, level=0.5)
        mean = image.mean((0, 1))
        assert np.abs(found - (image + mean) / 2).max() <= 0.5
        # Values are clipped, not wrapped around.
        assert (corrupted('brightness', image, level=250) == 255).all()

    def test_jpeg(self, image):
        errors = [
            np.abs(corrupted('jpeg', image, level=q).astype(int) - image)
            for q in (10, 90)
        ]
        assert errors[0].mean() > 2 * errors[1].mean()

    def test_unknown(self, image):
        with pytest.raises(ValueError, match="no corruption 'fog': choose"):
            corrupted('fog', image)

    @pytest.mark.parametrize('kind', ['noise', 'blur', 'pixelate'])
    def test_level(self, kind, image):
        with pytest.raises(ValueError, match=f'the level of {kind} is'):
            corrupted(kind, image, level=0)


def test_conditions():
    cfg = load_model_config('fpn_hatnet-tiny_8xb2-80k_ade20k-512x512')
    steps = [
        step.type
        for step in corrupt(cfg, 'blur').test_dataloader.dataset.pipeline
    ]
    assert steps[:2] == ['LoadImageFromFile', 'mmhatnet.Corruption']
    scale = resize(cfg, 96).test_dataloader.dataset.pipeline[1].scale
    assert tuple(scale) == (96, 96)
    for same in (resize(cfg, 0), corrupt(cfg, 'none')):
        assert same.to_dict() == cfg.to_dict()
    with pytest.raises(ValueError, match='no step of the test pipeline'):
        resize(load_model_config(CLASSIFIER), 96)


@pytest.mark.slow
def test_tool(trained, demo_folder, tmp_path):
    """Each condition and setting once, also after a stop."""
    path = tmp_path / 'rows.csv'
    args = CLASSIFIER, trained(CLASSIFIER), '--g1', '8,7,7', '4,4,2'
    output = call_tool(
        *(TOOL, *args, '--corruptions', 'noise', '--out', path),
        cwd=demo_folder,
    )
    assert '| G1; G2 | as it is | noise |' in output
    rows = read_csv(path)
    assert [(row['G1'], row['corruption']) for row in rows] == [
        (g1, kind)
        for kind in ('none', 'noise')
        for g1 in ((8, 7, 7), (4, 4, 2))
    ]
    call_tool(*(TOOL, *args, '--out', path), cwd=demo_folder)
    assert read_csv(path)[:4] == rows
    assert len(read_csv(path)) == 2 * (1 + len(CORRUPTIONS))


def test_needs_a_valid_setting(tmp_path):
    cfg = load_model_config(CLASSIFIER)
    with pytest.raises(ValueError, match='at least 32x32'):
        measure_robustness(
            cfg, 'absent.pth', [], tmp_path / 'x.csv', scales=[16]
        )
    # Before the first test, which takes minutes.
    (tmp_path / 'x.pth').touch()
    with pytest.raises(ValueError, match='no step of the test pipeline'):
        measure_robustness(
            cfg, str(tmp_path / 'x.pth'), [], tmp_path / 'x.csv', scales=[96]
        )
    with pytest.raises(ValueError, match='grid_sizes'):
        measure_robustness(
            cfg, 'absent.pth', [((8, 8), None)], tmp_path / 'x.csv'
        )
