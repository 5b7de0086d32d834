"""The page to explore models."""

import re
import sys

import numpy as np
import pytest
from demo.explorer import Explorer
from helpers import TOOLS, call_tool, start_tool
from PIL import Image

from mmhatnet.apis.inference import get_inferencer, predict

APP = TOOLS / 'demo_app.py'


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('photo') / 'noise.png'
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope='module')
def explorer():
    return Explorer('shape-segmentor')


class TestExplorer:
    @pytest.mark.parametrize(
        'model', ['shape-segmentor', 'cifar10-classifier']
    )
    def test_equals_the_inferencer(self, model, photo):
        """As configured, the page says what tools/infer.py says."""
        explorer = Explorer(model)
        found, picture, _ = explorer.explore(photo, *explorer.configured, 0)
        expected = predict(get_inferencer(model), photo)[0]
        for one, other in zip(
            found['classes'], expected['classes'], strict=True
        ):
            assert one['name'] == other['name']
            for key in {'score', 'share'} & other.keys():
                assert one[key] == pytest.approx(other[key], abs=2e-3)
        assert picture.shape == (256, 384, 3)

    def test_dial(self, explorer, photo):
        settings = ((8, 8, 8), (8, 4, 2)), ((4, 4, 4), (16, 8, 4))
        costs = [explorer.explore(photo, *each, 128)[2] for each in settings]
        pattern = r'\d+ ms, .*?([\d.]+) G .* at 192x128 pixels'
        one, other = (float(re.fullmatch(pattern, x)[1]) for x in costs)
        assert 0 < other < one

    def test_attention(self, explorer, photo):
        figure = explorer.attend(photo, (383, 128), *explorer.configured, 64)
        assert len(figure.axes) > 4
        for point in ((-1, 0), (float('nan'), 0)):
            with pytest.raises(ValueError, match='outside the image'):
                explorer.attend(photo, point, *explorer.configured, 64)

    @pytest.mark.parametrize(
        ('size', 'shape'), [(5000, '2048x64'), (48, '1536x48')]
    )
    def test_long_images(self, size, shape, explorer, tmp_path):
        path = tmp_path / 'long.png'
        Image.new('RGB', (3200, 100)).save(path)
        _, _, cost = explorer.explore(path, *explorer.configured, size)
        assert cost.endswith(f'{shape} pixels')

    def test_limits(self, explorer, photo, tmp_path, monkeypatch):
        monkeypatch.setattr(explorer, 'run', None)
        with pytest.raises(ValueError, match='this needs .* a smaller size'):
            explorer.explore(photo, (1, 1, 1), (1, 1, 1), 1024)
        large = tmp_path / 'large.png'
        Image.new('1', (13000, 13000)).save(large)
        monkeypatch.setattr(Image.Image, 'load', None)
        with pytest.raises(ValueError, match='up to 40,000,000'):
            explorer.explore(large, *explorer.configured, 64)


def test_missing_package(monkeypatch):
    monkeypatch.delitem(sys.modules, 'demo.page', False)
    monkeypatch.setitem(sys.modules, 'gradio', None)
    output = call_tool(APP, code=1)
    assert 'pip install -e ".[demo]"' in output.splitlines()[-1]


def test_wrong_model(tmp_path):
    pytest.importorskip('gradio')
    command = APP, '--model', 'shape-segmentor', 'nothing.pth'
    line = call_tool(*command, code=1, cwd=tmp_path).splitlines()[-1]
    assert line.startswith('demo_app.py: error: no checkpoint at nothing.pth')


@pytest.mark.slow
def test_page(photo, tmp_path):
    """A client asks the server what a browser would."""
    gradio_client = pytest.importorskip('gradio_client')
    process = start_tool(APP, cwd=tmp_path)
    try:
        lines = iter(process.stdout.readline, '')
        found = (re.search(r'http://127\.0\.0\.1:\d+', line) for line in lines)
        client = gradio_client.Client(next(filter(None, found))[0])
        image, name = gradio_client.handle_file(photo), 'shape-segmentor'
        sliders = client.predict(name, api_name='/choose')
        assert sliders == (8, 8, 8, 8, 4, 2, 0)
        text = client.predict(name, image, api_name='/configured')[1]
        assert text.startswith('**background ')
        assert text.endswith(' at 96x64 pixels')
        *grids, _ = sliders
        request = dict(api_name='/predict')
        text = client.predict(name, image, *grids, 96, **request)[1]
        assert text.endswith(' at 144x96 pixels')
        broken = tmp_path / 'broken.png'
        broken.write_bytes(b'\x89PNG\r\n\x1a\nnothing')
        for file, size, message in (
            (photo, 16, 'needs images of at least 32x32 pixels'),
            (broken, 64, r"^broken.png: .* image file 'broken.png'"),
        ):
            image = gradio_client.handle_file(file)
            with pytest.raises(
                gradio_client.exceptions.AppError, match=message
            ):
                client.predict(name, image, *grids, size, **request)
    finally:
        process.terminate()
        process.communicate(timeout=60)
