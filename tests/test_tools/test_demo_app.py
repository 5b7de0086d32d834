"""The page to explore models."""

import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

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
        found = explorer.explore(photo, *explorer.configured, 0)
        expected = predict(get_inferencer(model), photo)[0]
        for one, other in zip(
            found.result['classes'], expected['classes'], strict=True
        ):
            assert one['name'] == other['name']
            for key in {'score', 'share'} & other.keys():
                assert one[key] == pytest.approx(other[key], abs=2e-3)
        assert found.picture.shape == (256, 384, 3)

    def test_dial(self, explorer, photo):
        settings = ((8, 8, 8), (8, 4, 2)), ((4, 4, 4), (16, 8, 4))
        one, other = (explorer.explore(photo, *each, 128) for each in settings)
        assert one.shape == other.shape == (128, 192)
        assert other.operations < one.operations
        assert one.seconds > 0

    def test_attention(self, explorer, photo):
        picture = explorer.attend(photo, (383, 128), *explorer.configured, 64)
        assert picture.ndim == 3
        assert picture.std() > 10

    @pytest.mark.parametrize(
        'point',
        [None, 5, [], [1], [1, 2, 3], ['a', 'b'], [[0], 0], [10**400, 0]]
        + [[float('nan'), 0], [-1, 0], [True, 0]],
    )
    def test_points_of_a_stranger(self, point, explorer, photo):
        with pytest.raises(ValueError, match='two coordinates'):
            explorer.attend(photo, point, *explorer.configured, 0)

    @pytest.mark.parametrize(
        ('size', 'shape'), [(5000, (64, 2048)), (48, (48, 1536))]
    )
    def test_long_images(self, size, shape, explorer, tmp_path):
        path = tmp_path / 'long.png'
        Image.new('RGB', (3200, 100)).save(path)
        grids = explorer.configured
        assert explorer.explore(path, *grids, size).shape == shape

    def test_errors(self, explorer, photo, tmp_path, monkeypatch):
        for path in (tmp_path / 'absent.png', APP):
            with pytest.raises(ValueError, match='no such|cannot identify'):
                explorer.explore(path, *explorer.configured, 64)
        with pytest.raises(ValueError, match='at least 32|32x32'):
            explorer.explore(photo, *explorer.configured, 16)
        with pytest.raises(ValueError, match='G2'):
            explorer.explore(photo, (8, 8, 8), (0, 1, 1), 64)
        monkeypatch.setattr(explorer, 'run', None)
        with pytest.raises(ValueError, match='this needs .* a smaller size'):
            explorer.explore(photo, (1, 1, 1), (1, 1, 1), 1024)
        large = tmp_path / 'large.png'
        Image.new('1', (13000, 13000)).save(large)
        monkeypatch.setattr(Image.Image, 'load', None)
        with pytest.raises(ValueError, match='up to 40,000,000'):
            explorer.explore(large, *explorer.configured, 64)

    def test_time(self, explorer, photo, monkeypatch):
        """A request ends between two blocks, and the next one has its turn."""
        monkeypatch.setattr('demo.explorer.SECONDS', 0)
        with pytest.raises(TimeoutError, match='takes more than 0 s'):
            explorer.explore(photo, *explorer.configured, 64)
        with explorer._lock, ThreadPoolExecutor() as pool:
            request = pool.submit(
                explorer.explore, photo, *explorer.configured, 64
            )
            with pytest.raises(TimeoutError, match='try again'):
                request.result()
        monkeypatch.undo()
        assert explorer.explore(photo, *explorer.configured, 64).seconds > 0


def test_no_folders_of_the_server_in_errors():
    gradio = pytest.importorskip('gradio')
    from demo.page import sentences, show

    def fail(text):
        raise ValueError(text)

    for text, sentence in (
        ('/tmp/gradio/0a/a.png: no image', 'a.png: no image'),
        ("no model at '/srv/x.pth' (/home/me/y)", "no model at 'x.pth' (y)"),
        (r'no file C:\Users\me\a.png', 'no file a.png'),
        ('1/2 of km/h at 3x4', '1/2 of km/h at 3x4'),
    ):
        with pytest.raises(gradio.Error) as caught, sentences():
            fail(text)
        assert caught.value.message == sentence
        # The other setting is shown all the same.
        assert show(fail, text) == (None, sentence)


def test_missing_package(monkeypatch):
    monkeypatch.delitem(sys.modules, 'demo.page', False)
    monkeypatch.setitem(sys.modules, 'gradio', None)
    output = call_tool(APP, code=1)
    assert 'pip install -e ".[demo]"' in output.splitlines()[-1]


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('shape-segmentor nothing.pth', 'no checkpoint at nothing.pth'),
        ('shape-segment nothing.pth', '.*similar names: shape-segmentor'),
    ],
)
def test_wrong_models(model, message, tmp_path):
    pytest.importorskip('gradio')
    command = APP, '--model', *model.split()
    *_, line = call_tool(*command, code=1, cwd=tmp_path).splitlines()
    assert re.match(f'demo_app.py: error: {message}', line)


@pytest.fixture
def browser():
    webdriver = pytest.importorskip('selenium.webdriver')
    if not (shutil.which('chromium') and shutil.which('chromedriver')):
        pytest.skip('no chromium and chromedriver')
    options = webdriver.ChromeOptions()
    for option in ('headless', 'no-sandbox', 'disable-gpu'):
        options.add_argument(f'--{option}')
    options.binary_location = shutil.which('chromium')
    service = webdriver.ChromeService(shutil.which('chromedriver'))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.fixture
def page(photo):
    """The page where there are no demo data, which opens with a classifier."""
    pytest.importorskip('gradio')
    pytest.importorskip('skimage', reason='for the photograph at the start')
    process = start_tool(APP, cwd=photo.parent)
    for line in process.stdout:
        if address := re.search(r'http://127\.0\.0\.1:\d+', line):
            break
    yield address[0]
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.slow
class TestPage:
    """In a browser: upload, move a slider, click, small screens, errors."""

    @staticmethod
    def wait(driver, condition, seconds=120):
        from selenium.common import exceptions
        from selenium.webdriver.support.ui import WebDriverWait

        hidden = (  # by the sign of a computation
            exceptions.ElementClickInterceptedException,
            exceptions.StaleElementReferenceException,
        )
        wait = WebDriverWait(driver, seconds, ignored_exceptions=hidden)
        return wait.until(condition)

    @staticmethod
    def text(driver):
        return driver.find_element('css selector', 'body').text

    def upload(self, driver, path):
        """Upload an image in place of another."""
        driver.find_element(
            'css selector', '[aria-label="Remove Image"]'
        ).click()
        field = self.wait(
            driver,
            lambda d: d.find_element('css selector', 'input[type=file]'),
        )
        field.send_keys(str(path))

    def costs(self, driver, text):
        """Both settings, as configured and with the sliders."""

        def find(d):
            pattern = r'[\d.]+ G multiply-accumulates at \d+x\d+ pixels'
            found = re.findall(pattern, self.text(d))
            return len(found) == 2 and text in found[1] and found

        return self.wait(driver, find)

    def pictures(self, driver, count):
        def find(d):
            found = d.find_elements('css selector', '.image-frame img')
            return len(found) == count and found

        return self.wait(driver, find)

    def click_on_prediction(self, driver):
        found = driver.find_elements('css selector', '.image-frame img')
        if len(found) == 3:
            found[2].click()
        return len(found) == 3

    @pytest.mark.parametrize('width', [1300, 400])
    def test_explore(self, width, page, browser, photo, tmp_path):
        browser.set_window_size(width, 1400)
        browser.get(page)
        self.wait(browser, lambda d: 'multiply-acc' in d.page_source)
        self.upload(browser, photo)
        first = self.costs(browser, '32x32')
        assert first[0] == first[1]
        slider = browser.find_elements('css selector', 'input[type=range]')[6]
        assert (
            slider.location['y'] > self.pictures(browser, 3)[2].location['y']
        )
        slider.send_keys('\ue014' * 4)  # the right arrow
        second = self.costs(browser, '192x128')
        assert second[0] == first[0]
        assert second[1] != first[1]
        self.wait(browser, self.click_on_prediction)
        self.pictures(browser, 4)
        wide = browser.execute_script(
            'return document.documentElement.scrollWidth'
        )
        assert wide <= browser.execute_script('return window.innerWidth')
        broken = tmp_path / 'broken.png'
        broken.write_bytes(b'\x89PNG\r\n\x1a\nnothing')
        self.upload(browser, broken)
        self.wait(browser, lambda d: 'cannot identify' in self.text(d))
