"""What README and docs/ show is run."""

import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

import mmhatnet
from mmhatnet.config import read_config

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
# Page -> its other Python; pages without an import have only settings.
RUNNABLE = {
    page: '\n'.join(code)
    for page in PAGES
    if (code := [c for c in python_blocks(page) if '# my_' not in c])
    and re.search('^(import|from) ', '\n'.join(code), re.M)
}
# Those of all classes that the demo data have.
ON_DEMO_DATA = (
    'my_segmentation.py',
    'my_segmentation_from_0.py',
    'my_detection.py',
    'my_classifier.py',
)


@pytest.mark.parametrize('page', RUNNABLE, ids=lambda page: page.name)
def test_python(page, official, tmp_path):
    """It runs, and prints what its comments say."""
    for arch in ('tiny', 'small'):
        name = f'HAT-Net_{arch.capitalize()}.pth'
        torch.save({'model': official(arch)}, tmp_path / name)
    noise = np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'photo.jpg')
    result = subprocess.run(
        [sys.executable, '-c', RUNNABLE[page]],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            'TORCH_HOME': str(tmp_path / 'hub'),
            'MMHATNET_RELEASE_URL': tmp_path.as_uri(),
        },
    )
    assert result.returncode == 0, result.stderr
    printed = re.findall(r'^# (\(.*)$', RUNNABLE[page], re.M)
    assert re.findall(r'^\(.*$', result.stdout, re.M) == printed


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    """The configs in a folder, with the demo data beside."""
    pytest.importorskip('skimage', reason='the demo data need scikit-image')
    from mmhatnet.datasets import make_demo_data

    folder = tmp_path_factory.mktemp('shown')
    for name, code in CONFIGS.items():
        (folder / name).write_text(code)
    make_demo_data(folder / 'data' / 'demo', 6, 2, (96, 96))
    return folder


def test_configs_are_found():
    assert set(ON_DEMO_DATA) < set(CONFIGS)
    assert {'my_head.py', 'my_detector.py', 'my_instances.py'} < set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_model_of_a_config(name, shown):
    model = mmhatnet.get_model(shown / name)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = model.extract_feat(image)
    assert features


@pytest.mark.parametrize('name', ON_DEMO_DATA)
def test_data_of_a_config(name, shown, monkeypatch):
    """They are found, and their labels are those of the model's classes."""
    monkeypatch.chdir(shown)
    cfg = read_config(shown / name)
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(dataset)
        for i in range(len(dataset)):
            data = dataset[i]
            sample = data['data_samples']
            if cfg.default_scope == 'mmseg':
                labels = sample.gt_sem_seg.data
                labels = labels[labels != 255]
                classes = cfg.model.decode_head.num_classes
                if name == 'my_segmentation_from_0.py':
                    classes += 1  # the demo data do have a 0 for nothing
            elif cfg.default_scope == 'mmdet':
                if split != 'train':
                    continue  # is loaded by the metric
                labels = sample.gt_instances.labels
                classes = cfg.model.bbox_head.num_classes
            else:
                labels = sample.gt_label
                classes = cfg.model.head.num_classes
            assert ((labels >= 0) & (labels < classes)).all()
    names = dataset.metainfo['classes']
    assert (
        len(names)
        == {
            'mmseg': lambda: cfg.model.decode_head.num_classes,
            'mmdet': lambda: cfg.model.bbox_head.num_classes,
            'mmpretrain': lambda: cfg.model.head.num_classes,
        }[cfg.default_scope]()
    )


def test_tools_and_options_exist():
    """Of every command that a page shows."""
    commands = [
        line
        for page in PAGES
        for block in re.findall(r'```bash\n(.*?)```', page.read_text(), re.S)
        for line in block.splitlines()
    ]
    checked = 0
    for command in commands:
        match = re.search(r'(?:^|\s)(tools/[\w/]+\.(?:py|sh))\b', command)
        if not match:
            continue
        tool = ROOT / match[1]
        assert tool.is_file(), command
        text = tool.read_text() + (ROOT / 'mmhatnet/cli.py').read_text()
        for option in re.findall(r'(?<=\s)--[\w-]+', command):
            assert option in text or tool.suffix == '.sh', command
        checked += 1
    assert checked > 20
    # And of every config.
    for command in commands:
        for config in re.findall(r'configs/\w+/[\w.-]+\.py', command):
            assert (ROOT / config).is_file(), command
