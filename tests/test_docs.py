"""The examples, commands and names in README and docs/ work."""

import ast
import os
import re
import shlex
import textwrap
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from helpers import DEMOS, ROOT, call_tool, import_page, run_tool, write_video
from mmengine.registry import (
    DATASETS,
    DefaultScope,
    Registry,
    init_default_scope,
)
from PIL import Image

import mmhatnet
from mmhatnet import registry
from mmhatnet.analysis.complexity import image_channels
from mmhatnet.engine.checks import check_data
from mmhatnet.utils.config import read_config
from mmhatnet.utils.hashes import sha256_of

REGISTRIES = [x for x in vars(registry).values() if isinstance(x, Registry)]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def python_blocks(page):
    text = page.read_text()
    blocks = re.findall(r'^( *)```python\n(.*?)^\1```', text, re.M | re.S)
    return [textwrap.dedent(code) for _, code in blocks]


# File name -> a config that a page shows.
CONFIGS = {
    match[1]: code
    for page in PAGES
    for code in python_blocks(page)
    if (match := re.match(r'# (my_\w+\.py)\n', code))
}
# Page -> its other Python code, if it has an import. Code without imports is
# part of a config.
RUNNABLE = {
    page: '\n'.join(code)
    for page in PAGES
    if (code := [c for c in python_blocks(page) if '# my_' not in c])
    and re.search('^(import|from) ', '\n'.join(code), re.M)
}
# Configs whose classes are all classes of the demo data.
ON_DEMO_DATA = (
    'my_segmentation.py',
    'my_segmentation_from_0.py',
    'my_detection.py',
    'my_classifier.py',
)
# Page -> the lines of its blocks of commands.
LINES = {
    page: [
        line
        for block in re.findall(r'```bash\n(.*?)```', page.read_text(), re.S)
        for line in block.replace('\\\n', '').splitlines()
    ]
    for page in PAGES
}
COMMANDS = [line for page in PAGES for line in LINES[page]]
# Commands that take seconds, write files and need no webcam.
CHEAP = re.compile(
    r'python (tools/(?:infer|visualization/\w+|model_converters/\w+)\.py) '
    r'(?!.*(?:\.onnx|my_| 0 ))'
)
# Page -> those of its commands, in their order.
RUN = {
    page: lines
    for page in PAGES
    if (lines := list(filter(CHEAP.match, LINES[page])))
}


@pytest.fixture(scope='module')
def released(official, tmp_path_factory):
    """A folder with an image, a video and files as the authors released."""
    folder = tmp_path_factory.mktemp('released')
    for arch in ('tiny', 'small'):
        name = f'HAT-Net_{arch.capitalize()}.pth'
        torch.save({'model': official(arch)}, folder / name)
    size = 240, 320, 3
    noise = np.random.RandomState(0).randint(0, 256, size, np.uint8)
    Image.fromarray(noise).save(folder / 'photo.jpg')
    write_video(folder / 'video.mp4', [noise] * 2, 25)
    return folder


@pytest.mark.parametrize('page', RUNNABLE, ids=lambda page: page.name)
def test_python(page, released, monkeypatch, capsys):
    """The code runs and prints the lines that its comments show."""
    if page.name == 'hubs.md':
        pytest.importorskip('segmentation_models_pytorch')
    monkeypatch.chdir(released)
    monkeypatch.setenv('TORCH_HOME', str(released / 'hub'))
    monkeypatch.setenv('MMHATNET_RELEASE_URL', released.as_uri())
    # Other tests leave the scope of another library.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        exec(compile(RUNNABLE[page], page, 'exec'), {})
    shown = re.findall(r'^# (\(.*)$', RUNNABLE[page], re.M)
    assert re.findall(r'^\(.*$', capsys.readouterr().out, re.M) == shown


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    """A folder with the configs of the pages and small demo data."""
    pytest.importorskip('skimage', reason='the demo data need scikit-image')
    from mmhatnet.datasets import demo

    folder = tmp_path_factory.mktemp('shown')
    for name, code in CONFIGS.items():
        (folder / name).write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, 'CROPS', dict(train=2, val=1))
        demo.make_demo_data(folder / 'data' / 'demo', 6, 2, (96, 96))
    return folder


@pytest.mark.parametrize('name', CONFIGS)
def test_model_of_a_config(name, shown):
    model = mmhatnet.get_model(shown / name)
    with torch.no_grad():
        model.extract_feat(torch.rand(1, image_channels(model.cfg), 64, 96))


@pytest.mark.parametrize('name', ON_DEMO_DATA)
def test_data_of_a_config(name, shown, monkeypatch):
    """The data are found, and the model has a class for each label."""
    monkeypatch.chdir(shown)
    cfg = read_config(shown / name)
    if 'from_0' not in name:  # of the demo data, 0 is no class
        check_data(cfg, ('train', 'val', 'test'))
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert 'inputs' in dataset[len(dataset) - 1]


@pytest.mark.default_stack
def test_commands_exist():
    """Their programs, options and configs; no comment became a command."""
    shared_options = ''.join(
        (ROOT / path).read_text()
        for path in (
            'mmhatnet/engine/cli.py',
            'mmhatnet/deploy/predict_files.py',
            'tools/pages/common.py',
        )
    )
    tools = 0
    for command in COMMANDS:
        words = re.sub(r'^(\w+=\S+\s*)+|#.*', '', command).split()
        if words:
            known = words[0] in ('python', 'pip', 'mim', 'source')
            assert known or words[0].startswith('tools/'), command
            assert words[-1] not in ('python', '--out'), command
        for config in re.findall(r'configs/\w+/[\w.-]+\.py', command):
            assert (ROOT / config).is_file(), command
        for name in re.findall(
            r'(?:^|\s)(tools/[\w/]+\.(?:py|sh))\b', command
        ):
            tool, tools = ROOT / name, tools + 1
            assert tool.suffix == '.py' or os.access(tool, os.X_OK), command
            text = tool.read_text() + shared_options
            for option in re.findall(r'(?<=\s)--[\w-]+', command):
                assert option in text or tool.suffix == '.sh', command
    assert tools > 20
    assert sum(map(len, RUN.values())) > 10
    assert RUN[ROOT / 'README.md']


@pytest.fixture
def reader(released, shown, trained, official_file, tmp_path):
    """A folder like a clone, after the trainings that the pages name."""
    files = ROOT / 'configs', shown / 'data', *released.glob('*o.*')
    for place in files:
        (tmp_path / place.name).symlink_to(place)
    (tmp_path / 'HAT-Net_Tiny.pth').symlink_to(official_file())
    for name in re.findall(r'work_dirs/[\w/.-]+\.pth', '\n'.join(COMMANDS)):
        config = Path(name).parent.name
        if config in DEMOS.values() and not (tmp_path / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).symlink_to(trained(config))
    return tmp_path


@pytest.mark.parametrize('page', RUN, ids=lambda page: page.name)
def test_commands_one_after_the_other(page, reader, official_file):
    """Those that take seconds run in their order, in one folder."""
    if '--safetensors' in str(RUN[page]):
        pytest.importorskip('safetensors')
    for command in RUN[page]:
        command = command.replace('$SHA256', sha256_of(official_file()))
        _, tool, *arguments = shlex.split(command)
        call_tool(
            *(ROOT / tool, *arguments),
            cwd=reader,
            TORCH_HOME=str(reader / 'hub'),
            MMHATNET_RELEASE_URL=reader.as_uri(),
        )


@pytest.mark.default_stack
def test_paths_exist():
    """Paths in the text of a page, such as `configs/_base_/`."""
    checked = 0
    for page in PAGES:
        text = re.sub('```.*?```', '', page.read_text(), flags=re.S)
        for path in re.findall(
            r'`((?:configs|docs|mmhatnet|requirements|tools)/[^`\s]*)', text
        ):
            if not path.endswith('...'):
                assert list(ROOT.glob(path.rstrip('/'))), (page, path)
                checked += 1
    assert checked > 20


@pytest.mark.default_stack
def test_gains_of_the_readme():
    """Its numbers are those of the measurements in docs/."""
    gains = import_page('readme').describe_gains()
    assert gains in PAGES[0].read_text()


@pytest.mark.default_stack
def test_layout_is_complete():
    """The plan names each module of the package, or the folder it is in."""
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    text += ''.join(
        f'`mmhatnet/models/{name}`'
        for name in re.findall(r'`(\w+\.py)`', text)
    )
    for file in (ROOT / 'mmhatnet').rglob('[!_]*.py'):
        path = file.relative_to(ROOT).as_posix()
        folder = file.parent.relative_to(ROOT).as_posix()
        named = f'`{path}`' in text or f'`{folder}/`' in text
        assert named or file.stem == 'version' or '.mim' in path, path


@pytest.mark.default_stack
def test_messages_exist():
    """The package has the messages that troubleshooting.md explains."""
    values = (
        getattr(node, 'value', None)
        for file in (ROOT / 'mmhatnet').rglob('*.py')
        for node in ast.walk(ast.parse(file.read_text()))
    )
    parts = {x for x in values if isinstance(x, str) and len(x) > 10}
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    ours = 'error: |ImportError: mmh|ValueError: HAT|UserWarning: |no GPU'
    messages = re.findall(rf'\*\*`((?:{ours})[^`]*)`', text)
    for message in messages:
        message = ' '.join(message.split())
        assert any(part in message for part in parts), message
    assert len(messages) > 15


def test_names_exist():
    """Names in the text of a page, such as `mmhatnet.get_model`."""
    checked = 0
    for page in PAGES:
        for name in re.findall(r'\bmmhatnet(?:\.\w+)+', page.read_text()):
            has_hub = name != 'mmhatnet.apis.hub' or find_spec(
                'huggingface_hub'
            )
            if name.endswith(('.py', '.md', '.csv', '.git')) or not has_hub:
                continue
            if re.match(r'mmhatnet\.[A-Z]', name):
                assert any(known.get(name) for known in REGISTRIES), name
            else:
                resolve_name(name)
            checked += 1
    migration = (ROOT / 'docs' / 'migration.md').read_text()
    for module, names in re.findall(r'`(mmhatnet[.\w]+)`: (.*`)', migration):
        for name in re.findall(r'`(\w+)`', names):
            resolve_name(f'{module}.{name}')
    assert checked > 20


@pytest.mark.slow
@pytest.mark.default_stack
def test_notebook(tmp_path):
    """It runs from its first cell to its last."""
    nbclient = pytest.importorskip('nbclient')
    nbformat = pytest.importorskip('nbformat')
    notebook = nbformat.read(ROOT / 'docs' / 'tour.ipynb', as_version=4)
    assert not any(cell.get('outputs') for cell in notebook.cells)
    place = dict(metadata=dict(path=str(tmp_path)))
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()
    outputs = [out for c in notebook.cells for out in c.get('outputs', ())]
    printed = ''.join(
        out.text for out in outputs if out.get('name') == 'stdout'
    )
    assert re.search(r'^cat 0\.\d+$', printed, re.M)
    assert printed.count('M multiply-accumulates') == 3
    assert "'mIoU': " in printed
    assert sum('image/png' in out.get('data', {}) for out in outputs) == 3


@pytest.mark.slow
@pytest.mark.default_stack
def test_site(tmp_path):
    """Without a warning; with the README, the API and links that lead on."""
    pytest.importorskip('mkdocs')
    site = 'https://github.com/me/it'
    command = '-m', 'mkdocs', 'build', '-q', '-d', tmp_path
    run_tool(*command, REPOSITORY_URL=site)
    home = (tmp_path / 'index.html').read_text()
    assert 'href="inference/"' in home
    colab = 'https://colab.research.google.com/github/me/it/blob/main/docs/'
    assert f'href="{colab}tour.ipynb"' in home
    assert '../' not in home.partition('<article')[2].partition('</article')[0]
    # It makes the tables of models fit.
    assert '"../site.css"' in (tmp_path / 'model_zoo/index.html').read_text()
    assert (tmp_path / 'site.css').exists()
    api = tmp_path / 'api' / 'mmhatnet.models.hatnet' / 'index.html'
    assert 'grid_sizes' in api.read_text()
    assert ':class:' not in api.read_text()
    assert (tmp_path / 'search' / 'search_index.json').stat().st_size > 1e5
