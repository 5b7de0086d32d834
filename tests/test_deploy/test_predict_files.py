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
from mmhatnet.runtime.images import read_image, unreadable
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


def test_places(image, tmp_path):
    for name in ('b.JPG', 'a.png', 'c.txt', 'd.webp', 'in/e.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / name)
    names = [p.name for p in find_images([str(tmp_path)])]
    assert names == ['a.png', 'b.JPG', 'd.webp']
    names = [p.name for p in find_images([str(tmp_path / '**' / '*.png')])]
    assert sorted(names) == ['a.png', 'e.png']
    # A named file needs no image suffix; no file is listed twice.
    places = [str(tmp_path / name) for name in ('c.txt', 'a.png', '*.png')]
    assert [p.name for p in find_images(places)] == ['c.txt', 'a.png']


@pytest.mark.parametrize(
    'place', ['no.png', 'no', '*.png', '.', '~nobody-has-this-name/a.png']
)
def test_nothing_there(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no image at'):
        find_images([place])


def test_unreadable(image, tmp_path):
    """No other program reads EPS, and OpenCV nothing unknown to Pillow."""
    assert unreadable(image) is None
    content = image.read_bytes()
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'
    hdr = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n'
    for name, part, reason in (
        ('half.png', content[: len(content) // 2], 'truncated'),
        ('empty.png', b'', 'is empty'),
        ('text.png', b'text', 'cannot identify'),
        ('eps.png', eps + bytes(99), 'cannot identify'),
        ('hdr.tif', hdr + bytes(99), 'cannot identify'),
    ):
        (tmp_path / name).write_bytes(part)
        assert reason in unreadable(tmp_path / name)


def test_too_many_pixels(monkeypatch, tmp_path):
    """Nothing is decoded; Pillow itself stops at 179 million."""
    path = tmp_path / 'large.png'
    Image.new('1', (14000, 14000)).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, 'load', None)
        assert 'of up to 89,000,000 are read' in unreadable(path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 89_478_485)
    monkeypatch.setenv('MMHATNET_MAX_PIXELS', '196000000')
    assert unreadable(path) is None
    monkeypatch.setenv('MMHATNET_MAX_PIXELS', '195999999')
    assert unreadable(path).startswith('14000x14000 pixels: images of')
    monkeypatch.setenv('MMHATNET_MAX_PIXELS', '-1')
    assert 'not a number of pixels' in unreadable(path)


def test_names_that_are_no_text(image, tmp_path, capsys):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff\x1b[2J.png'))
    shutil.copy(image, path)
    long = tmp_path / f'{"n" * 250}.png'
    shutil.copy(image, long)
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
    assert len(os.listdir(tmp_path / 'out')) == 4


def test_other_files_of_a_folder(image, tmp_path, capsys):
    for name in ('a.png', 'b.gif', 'c.gif', 'README'):
        shutil.copy(image, tmp_path / name)
    assert len(find_images([str(tmp_path)])) == 1
    printed = capsys.readouterr().err
    left_out = 'other files are left out (2 .gif, 1 without a suffix)'
    assert left_out in printed


def test_names_of_results(tmp_path):
    """None is the name of an image or of another result."""
    paths = [tmp_path / name for name in ('a.png', 'x/a.png', 'a.jpg')]
    assert list(unique_names(paths, tmp_path / 'out')) == ['a', 'a_2', 'a_3']
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


def predicting(video, out, *formats, predict=detect, metadata=DETECTOR):
    """Call predict_all; an interrupted one may leave nothing else."""
    places = video if isinstance(video, list) else [str(video)]
    model = predict, metadata
    try:
        return predict_all(lambda: model, places, out, formats=formats)
    finally:
        assert not list(out.glob('.*'))


def interrupt_after(count):
    """A detector that Ctrl-C interrupts."""
    calls = iter([*[detect] * count])

    def predict(image):
        for each in calls:
            return each(image)
        raise KeyboardInterrupt

    return predict


class TestVideos:
    def test_pictures(self, video, out):
        """They have the rate and the size of the frames, and boxes."""
        assert predicting(video, out) is None
        assert {p.name for p in out.iterdir()} == {
            'Größe 1.mp4',
            'Größe 1.json',
        }
        frames, rate = read_video(out / video.name)
        given, _ = read_video(video)
        assert (len(frames), rate) == (FRAMES, RATE)
        for drawn, frame in zip(frames, given, strict=True):
            assert drawn.shape == frame.shape
            assert np.abs(drawn.astype(int) - frame).max() > 50
            assert np.abs(drawn[40:].astype(int) - frame[40:]).max() < 30
        found = json.loads((out / 'Größe 1.json').read_text('utf-8'))
        assert [each['frame'] for each in found['frames']] == [*range(FRAMES)]
        assert found['frames'][0]['objects'][0]['name'] == 'square'

    def test_coco_and_csv(self, video, out):
        coco = pytest.importorskip('pycocotools.coco')
        assert predicting(video, out, 'coco', 'csv') is None
        data = coco.COCO(out / 'Größe 1_coco.json')
        assert data.getImgIds() == [*range(FRAMES)]
        assert [each['name'] for each in data.loadCats([0, 1])] == (
            DETECTOR['classes']
        )
        masks = [find_bright(frame)[1] for frame in read_video(video)[0]]
        with open(out / 'Größe 1.csv', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        for number, (mask, row) in enumerate(zip(masks, rows, strict=True)):
            (found,) = data.loadAnns(data.getAnnIds(number))
            assert (data.annToMask(found) == mask).all()
            assert found['area'] == mask.sum()
            x, y, w, h = found['bbox']
            assert row == dict(
                **{'frame': str(number), 'class': 'square', 'score': '0.5'},
                **dict(x1=f'{x}', y1=f'{y}', x2=f'{x + w}', y2=f'{y + h}'),
            )
        assert data.loadRes(list(data.anns.values())).getAnnIds()

    def test_label_maps(self, video, out):
        options = dict(predict=segment, metadata=SEGMENTOR)
        predicting(video, out, 'labels', 'csv', **options)
        for number, frame in enumerate(read_video(video)[0]):
            with Image.open(out / f'Größe 1_labels/{number:06}.png') as saved:
                assert (np.array(saved) == find_bright(frame)[1]).all()
        lines = (out / 'Größe 1.csv').read_text('utf-8').splitlines()
        assert lines[0] == 'frame,class,share'
        # Those of a longer video do not stay.
        (out / 'Größe 1_labels' / '000099.png').write_text('old')
        predict_all(
            lambda: (segment, SEGMENTOR), [str(video)], out, True, ['labels']
        )
        assert len(list((out / 'Größe 1_labels').iterdir())) == FRAMES

    def test_interruption(self, video, out):
        with pytest.raises(KeyboardInterrupt):
            predicting(video, out, 'csv', predict=interrupt_after(3))
        assert len(read_video(out / video.name)[0]) == 3
        assert len((out / 'Größe 1.csv').read_text().splitlines()) == 4

    @pytest.mark.parametrize('content', [b'', b'no video', None])
    def test_broken(self, content, video, out, tmp_path, capfd):
        """One line, also in place of what OpenCV and FFmpeg write."""
        if content is None:
            content = video.read_bytes()[:500]
        (tmp_path / 'clip001.mp4').write_bytes(content)
        skipped = predicting(tmp_path / 'clip001.mp4', out)
        assert skipped == '1 of 1 files were skipped'
        printed = capfd.readouterr()
        (line,) = [x for x in printed.err.splitlines() if 'clip001' in x]
        assert 'skipped: it is no video, is damaged, or' in line
        assert 'moov' not in printed.err
        assert not list(out.iterdir())

    def test_cut(self, out, tmp_path, capsys):
        noise = np.array(Image.effect_noise(SIZE, 99).convert('RGB'))
        images = [noise] * FRAMES
        path = write_video(tmp_path / 'cut.avi', images, RATE, 'MJPG')
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert predicting(path, out) is None
        frames = len(read_video(out / 'cut.mp4')[0])
        assert 0 < frames < FRAMES
        assert f'{frames} of {FRAMES} frames' in capsys.readouterr().out

    def test_limits(self, video, out, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv('MMHATNET_MAX_PIXELS', '3000')
        assert predicting(video, out)
        assert '64x48 pixels: frames of up to 3,000' in capsys.readouterr().err
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff.mp4'))
        shutil.copy(video, path)
        assert predicting(path, out)
        assert 'its name is not valid text' in capsys.readouterr().err


class TestWebcam:
    @pytest.fixture
    def webcam(self, video, monkeypatch):
        """The place of a webcam that shows the video again and again."""
        frames = itertools.cycle(read_video(video)[0])
        device = mock.Mock()
        device.get.side_effect = lambda key: RATE
        device.read.side_effect = lambda: (True, next(frames))
        real = cv2.VideoCapture
        monkeypatch.setattr(
            'mmhatnet.deploy.videos.cv2.VideoCapture',
            lambda place: device if place == 987 else real(place),
        )
        return '987'

    def test_time_is_real(self, webcam, out):
        """Pictures stay while predictions take longer than frames."""
        detect_soon = interrupt_after(4)

        def predict(frame):
            time.sleep(0.25)
            return detect_soon(frame)

        with pytest.raises(KeyboardInterrupt):
            predicting(webcam, out, predict=predict)
        frames, rate = read_video(out / '987.mp4')
        assert rate == RATE
        assert len(frames) >= round(4 * 0.25 * RATE)
        found = json.loads((out / '987.json').read_text())
        assert len(found['frames']) == 4

    def test_q(self, webcam, out, monkeypatch):
        terminal, keyboard = os.openpty()
        with os.fdopen(keyboard) as stdin:
            monkeypatch.setattr('sys.stdin', stdin)
            count = iter(range(99))

            def predict(frame):
                if next(count) == 3:
                    os.write(terminal, b'q\n')
                return detect(frame)

            assert predicting(webcam, out, predict=predict) is None
        os.close(terminal)
        assert len(json.loads((out / '987.json').read_text())['frames']) >= 4

    def test_absent(self, out, capfd):
        assert predicting('987', out) == '1 of 1 files were skipped'
        printed = capfd.readouterr().err
        assert '987: skipped: there is no such webcam' in printed
        assert 'VIDEOIO' not in printed


class TestFormats:
    @pytest.fixture
    def photos(self, tmp_path):
        """Two images, of which the second has nothing bright, and no image."""
        for number, value in enumerate((250, 20)):
            image = np.full((40, 60, 3), value, np.uint8)
            cv2.imwrite(str(tmp_path / f'{number}.png'), image)
        (tmp_path / '2.png').write_text('no image')
        return [str(tmp_path / f'{number}.png') for number in range(3)]

    def test_one_file_for_all_images(self, photos, out):
        assert predicting(photos, out, 'coco', 'csv').startswith('1 of 3')
        assert {each.name for each in out.iterdir()} == {
            *('0.png', '1.png'),
            *('predictions.csv', 'predictions_coco.json'),
        }
        found = json.loads((out / 'predictions_coco.json').read_text())
        assert found['images'] == [
            dict(id=i, file_name=photos[i], height=40, width=60)
            for i in range(2)
        ]
        assert [each['image_id'] for each in found['annotations']] == [0]
        assert (out / 'predictions.csv').read_text() == (
            'image,class,score,x1,y1,x2,y2\n'
            f'{photos[0]},square,0.5,0.0,0.0,60.0,40.0\n'
        )
        with pytest.raises(FileExistsError, match='predictions.csv exists'):
            predict_all(None, [__file__], out, False, ['csv'])

    def test_interruption(self, photos, out):
        with pytest.raises(KeyboardInterrupt):
            predicting(photos, out, 'csv', predict=interrupt_after(1))
        assert len((out / 'predictions.csv').read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ('name', 'metadata'), [('coco', SEGMENTOR), ('labels', DETECTOR)]
    )
    def test_of_another_task(self, name, metadata, photos, out):
        with pytest.raises(ValueError, match=f'--format {name} is for'):
            predicting(photos, out, name, metadata=metadata)
