"""Results and pictures, which inference and exported files share."""

import numpy as np
import pytest

from mmhatnet.deploy.predict_files import summarize
from mmhatnet.runtime.results import (
    _font,
    classification,
    detection,
    segmentation,
)

GREY = np.full((400, 500, 3), 90, np.uint8)
NAMES = ['tree', 'Größe']
PALETTE = [(200, 0, 0), (255, 255, 200)]


def test_scores_as_people_write_them():
    result, *_ = classification(None, [0.612, 0.388], NAMES)
    assert summarize(result) == 'tree 0.61, Größe 0.39'
    labels = np.array([[0, 1], [1, 1]] * 100)
    labels[0, 0] = 2
    result, *_ = segmentation(None, labels, [], [])
    assert summarize(result) == '1 75 %, 0 25 %, 2 <1 %'


@pytest.mark.parametrize('size', [(40, 30), (400, 500), (32, 900)])
def test_pictures_keep_the_shape(size):
    """A point of the picture is the same part of the image."""
    image = np.full((*size, 3), 90, np.uint8)
    labels = np.zeros(size, int)
    for _, picture, _ in (
        classification(image, [0.5] * 100, [], 100),
        segmentation(image, labels, NAMES, PALETTE),
        detection(image, np.ones((1, 4)), [1], [0], None, NAMES, PALETTE),
    ):
        factor = picture.shape[0] // size[0]
        assert picture.shape == (factor * size[0], factor * size[1], 3)
        assert max(picture.shape) >= 320


def test_captions_have_contrast():
    """Text is black on light classes and white on dark ones."""
    boxes = np.array([[60.0, 60, 200, 200], [260, 260, 400, 390]])
    found = boxes, [0.9, 0.8], [0, 1], None
    _, picture, _ = detection(GREY, *found, NAMES, PALETTE)
    for (left, top), colour, text in (
        ((60, 60), PALETTE[0], 255),
        ((260, 260), PALETTE[1], 0),
    ):
        label = picture[top - 14 : top - 2, left + 4 : left + 34]
        pixels = label.reshape(-1, 3)
        assert (pixels == colour).all(1).any()
        assert (pixels == text).all(1).any()


def test_label_255():
    """It is the largest of 8 bits, and one more overflows."""
    labels = np.full(GREY.shape[:2], 255, np.uint8)
    result, _, found = segmentation(GREY, labels, NAMES, PALETTE)
    assert result['classes'][0]['name'] == '255'
    assert (found == 255).all()


def test_masks():
    masks = np.zeros((2, 400, 500), bool)
    masks[0, 100:150, 100:150] = True
    boxes = np.array([[100.0, 100, 150, 150], [0, 0, 10, 10]])
    found = boxes, [0.9, 0.8], [0, 7], iter(masks)
    result, picture, _ = detection(GREY, *found, NAMES, PALETTE)
    assert picture[125, 125].tolist() == [145, 45, 45]
    assert [x['name'] for x in result['objects']] == ['tree', '7']


def test_accents_are_written():
    """Pillow's own font has one box for all letters beyond ASCII."""
    font = _font(100, 'é')
    assert bytes(font.getmask('é')) != bytes(font.getmask('ü'))
