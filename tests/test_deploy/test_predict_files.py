"""What files, folders, patterns, videos and webcams give, and results."""

import csv
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from helpers import write_video
from PIL import Image

from mmhatnet.deploy.predict_files import (
    find_images,
    predict_all,
    unique_names,
)
from mmhatnet.runtime.images import open_image, read_image, unreadable
from mmhatnet.runtime.results import detection, segmentation

CLASSIFIER = dict(kind='classification', classes=['a'])
DETECTOR = dict(kind='instances', classes=['box', 'square'])
SEGMENTOR = dict(kind='segmentation', classes=['dark', 'bright'])
FRAMES, RATE, SIZE = 7, 12.5, (64, 48)


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'image.png'
    Image.effect_noise((110, 90), 99).convert('RGB').save(path)
    return path


def test_places(image, tmp_path, capsys):
    for name in ('b.JPG', 'a.png', 'c.txt', 'd.webp', 'in/e.png', 'in/f.mp4'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / name)
    for places, names in (
        ([''], ['a.png', 'b.JPG', 'd.webp']),
        (['**/*.png'], ['a.png', 'in/e.png']),
        (['in'], ['in/e.png', 'in/f.mp4']),
        # A named file needs no image suffix; no file is listed twice.
        (['c.txt', 'a.png', '*.png'], ['c.txt', 'a.png']),
    ):
        found = find_images([str(tmp_path / place) for place in places])
        assert found == [tmp_path / name for name in names]
    assert capsys.readouterr().err == f'{tmp_path}: other files left out: 1\n'
    for place in ('no.png', 'no', '*.gif', '~nobody-has-this-name/a.png'):
        with pytest.raises(FileNotFoundError, match='no image at'):
            find_images([place])


def test_unreadable(image, tmp_path, monkeypatch):
    """No other program reads EPS, and OpenCV nothing unknown to Pillow."""
    assert unreadable(image) is None
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'
    hdr = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n'
    for name, content, reason in (
        ('half.png', image.read_bytes()[:9000], 'truncated'),
        ('empty.png', b'', 'is empty'),
        ('eps.png', eps + bytes(99), 'cannot identify'),
        ('hdr.tif', hdr + bytes(99), 'cannot identify'),
    ):
        (tmp_path / name).write_bytes(content)
        assert reason in unreadable(tmp_path / name)
    Image.new('1', (14000, 14000)).save(tmp_path / 'large.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 89_478_485)
    monkeypatch.setattr(Image.Image, 'load', None)  # nothing is decoded
    for limit, reason in (
        ('', 'of up to 89,000,000 are read'),
        ('195999999', '14000x14000 pixels: images of'),
        ('-1', 'not a number of pixels'),
    ):
        monkeypatch.setenv('MMHATNET_MAX_PIXELS', limit)
        assert reason in unreadable(tmp_path / 'large.png')
    monkeypatch.setenv('MMHATNET_MAX_PIXELS', '196000000')
    assert open_image(tmp_path / 'large.png').size == (14000, 14000)


def test_names_that_are_no_text(image, tmp_path, capsys):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff\x1b[2J.png'))
    shutil.copy(image, path)
    shutil.copy(image, path.with_suffix('.mp4'))  # OpenCV would crash
    shutil.copy(image, tmp_path / f'{"n" * 250}.png')
    expected = np.array(Image.open(image))[..., ::-1]
    assert (read_image(path) == expected).all()
    found = dict(classes=[dict(label=0, name='a', score=0.5)])
    predict_all(
        lambda: (lambda _: (found, expected, None), CLASSIFIER),
        [str(tmp_path)],
        tmp_path / 'out',
    )
    printed = capsys.readouterr()
    assert r'/\udcff\x1b[2J.png: a 0.50' in printed.out + printed.err
    assert r'/\udcff\x1b[2J.mp4: skipped: Unicode' in printed.err
    assert len(os.listdir(tmp_path / 'out')) == 4


def test_names_of_results(tmp_path):
    """None is the name of an image or of another result."""
    paths = [tmp_path / name for name in ('a.png', 'x/a.png', 'a.jpg')]
    assert list(unique_names(paths, tmp_path)) == ['a_2', 'a_3', 'a_4']
    paths = [tmp_path / 'x.jpg', tmp_path / 'x_labels.jpg']
    assert list(unique_names(paths, tmp_path / 'out')) == ['x', 'x_labels_2']


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """A bright square that moves, in a file whose name is not simple."""
    path = tmp_path_factory.mktemp('videos') / 'Größe 1.mp4'
    images = np.full((FRAMES, *SIZE[::-1], 3), 20, np.uint8)
    for number, image in enumerate(images):
        image[16:32, 4 * number : 4 * number + 16] = 250
    return write_video(path, images, RATE)


@pytest.fixture
def photos(tmp_path):
    """Two images, of which the second has nothing bright, and no image."""
    for number, value in enumerate((250, 20)):
        image = np.full((40, 60, 3), value, np.uint8)
        cv2.imwrite(str(tmp_path / f'{number}.png'), image)
    (tmp_path / '2.png').write_text('no image')
    return [str(tmp_path / f'{number}.png') for number in range(3)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def read_video(path):
    """The frames of a video, and their rate."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def find_bright(image):
    image = image if isinstance(image, np.ndarray) else read_image(image)
    return image, image[..., 0] > 128


def detect(image):
    """Find what is bright."""
    image, mask = find_bright(image)
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    boxes = np.array([[x, y, x + w, y + h]], float)[: int(mask.any())]
    found = boxes, [0.5], np.ones(len(boxes), int), iter([mask])
    return detection(image, *found, DETECTOR['classes'], [])


def segment(image):
    image, mask = find_bright(image)
    return segmentation(image, mask, SEGMENTOR['classes'], [])


def predicting(places, out, *formats, predict=detect, metadata=DETECTOR):
    """Call predict_all; an interrupted one may leave nothing else."""
    places = places if isinstance(places, list) else [str(places)]
    model = predict, metadata
    try:
        return predict_all(lambda: model, places, out, True, formats)
    finally:
        assert not list(out.glob('.*'))


class TestVideos:
    def test_results(self, video, out):
        """The drawn frames, and COCO's file and a table of all frames."""
        coco = pytest.importorskip('pycocotools.coco')
        assert predicting(video, out, 'json', 'coco', 'csv') is None
        names = {
            f'Größe 1{x}' for x in ('.mp4', '.json', '_coco.json', '.csv')
        }
        assert {p.name for p in out.iterdir()} == names
        frames, rate = read_video(out / video.name)
        given, _ = read_video(video)
        assert rate == RATE
        for drawn, frame in zip(frames, given, strict=True):
            assert np.abs(drawn.astype(int) - frame).max() > 50
            assert np.abs(drawn[40:].astype(int) - frame[40:]).max() < 30
        found = json.loads((out / 'Größe 1.json').read_text('utf-8'))
        assert [each['frame'] for each in found['frames']] == [*range(FRAMES)]
        data = coco.COCO(out / 'Größe 1_coco.json')
        assert [each['name'] for each in data.loadCats([0, 1])] == (
            DETECTOR['classes']
        )
        with open(out / 'Größe 1.csv', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        for number, (frame, row) in enumerate(zip(given, rows, strict=True)):
            (found,) = data.loadAnns(data.getAnnIds(number))
            mask = find_bright(frame)[1]
            assert (data.annToMask(found) == mask).all()
            assert found['area'] == mask.sum()
            x, y, w, h = found['bbox']
            assert row == dict(
                **{'frame': str(number), 'class': 'square', 'score': '0.5'},
                **dict(x1=f'{x}', y1=f'{y}', x2=f'{x + w}', y2=f'{y + h}'),
            )

    def test_label_maps(self, video, out):
        folder = out / 'Größe 1_labels'
        folder.mkdir(parents=True)
        (folder / '000099.png').write_text('of a longer video')
        options = dict(predict=segment, metadata=SEGMENTOR)
        predicting(video, out, 'labels', 'csv', **options)
        frames, files = read_video(video)[0], sorted(folder.iterdir())
        for frame, file in zip(frames, files, strict=True):
            labels = np.array(Image.open(file))
            assert (labels == find_bright(frame)[1]).all()
        lines = (out / 'Größe 1.csv').read_text('utf-8').splitlines()
        assert lines[0] == 'frame,class,share'

    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('empty.mp4', 'it is not a video, is damaged, or'),
            ('header.mp4', 'it is not a video, is damaged, or'),
            ('large.mp4', '64x48 pixels: frames of up to 3,000'),
            ('987', 'there is no such webcam'),
        ],
    )
    def test_skipped(self, name, message, video, out, tmp_path, capfd):
        """One line, also in place of what OpenCV and FFmpeg write."""
        parts = {'empty.mp4': 0, 'header.mp4': 500, 'large.mp4': None}
        path = tmp_path / name if name in parts else name
        if name in parts:
            path.write_bytes(video.read_bytes()[: parts[name]])
        with mock.patch.dict(os.environ, MMHATNET_MAX_PIXELS='3000'):
            skipped = predicting(path, out)
        assert skipped == '1 of 1 files were skipped'
        printed = capfd.readouterr().err
        (line,) = [x for x in printed.splitlines() if name in x]
        assert f'skipped: {message}' in line
        assert 'moov' not in printed
        assert 'VIDEOIO' not in printed
        assert not list(out.iterdir())


def test_webcam(video, out, monkeypatch):
    """Pictures stay while predictions take longer than frames; q ends."""
    frames = itertools.cycle(read_video(video)[0])
    device = mock.Mock()
    device.get.side_effect = lambda key: RATE
    device.read.side_effect = lambda: (True, next(frames))
    with monkeypatch.context() as patch:
        patch.setattr(cv2, 'VideoCapture', {987: device}.get)
        terminal, keyboard = os.openpty()
        with os.fdopen(keyboard) as stdin:
            patch.setattr('sys.stdin', stdin)
            count = iter(range(99))

            def predict(frame):
                time.sleep(0.25)
                if next(count) == 3:
                    os.write(terminal, b'q\n')
                return detect(frame)

            assert predicting('987', out, predict=predict) is None
        os.close(terminal)
    written, rate = read_video(out / '987.mp4')
    assert rate == RATE
    assert len(written) >= round(4 * 0.25 * RATE)
    assert len(json.loads((out / '987.json').read_text())['frames']) >= 4


def test_one_file_for_all_images(photos, out):
    assert predicting(photos, out, 'coco', 'csv').startswith('1 of 3')
    assert {each.name for each in out.iterdir()} == {
        *('0.png', '1.png', 'predictions.csv', 'predictions_coco.json')
    }
    found = json.loads((out / 'predictions_coco.json').read_text())
    assert found['images'] == [
        dict(id=i, file_name=photos[i], height=40, width=60) for i in range(2)
    ]
    assert [each['image_id'] for each in found['annotations']] == [0]
    assert (out / 'predictions.csv').read_text() == (
        'image,class,score,x1,y1,x2,y2\n'
        f'{photos[0]},square,0.5,0.0,0.0,60.0,40.0\n'
    )
    with pytest.raises(FileExistsError, match='predictions.csv exists'):
        predict_all(None, [__file__], out, False, ['csv'])
    for name, metadata in ('coco', SEGMENTOR), ('labels', DETECTOR):
        with pytest.raises(ValueError, match=f'--format {name} is for'):
            predicting(photos, out, name, metadata=metadata)


@pytest.mark.parametrize('kind', ['video', 'photos'])
def test_interruption(kind, video, photos, out):
    """Ctrl-C leaves what was found until then."""
    calls = iter([detect])

    def predict(image):
        for each in calls:
            return each(image)
        raise KeyboardInterrupt

    places = photos if kind == 'photos' else video
    with pytest.raises(KeyboardInterrupt):
        predicting(places, out, 'csv', predict=predict)
    name = 'predictions' if kind == 'photos' else 'Größe 1'
    assert len((out / f'{name}.csv').read_text().splitlines()) == 2
    if kind == 'video':
        assert len(read_video(out / video.name)[0]) == 1
