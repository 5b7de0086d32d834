import sys

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

imagecorruptions = pytest.importorskip('imagecorruptions')


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
