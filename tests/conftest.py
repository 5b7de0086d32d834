import csv
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import mmhatnet

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'tests' / 'data'
ARCHS = ('tiny', 'small', 'medium', 'large')
# The paper's G1 and G2 for 224x224 classification.
CLS_GRIDS = dict(grid_sizes=(8, 7, 7), ds_ratios=(8, 4, 2))

# For what does not depend on the size of the network.
SMALL_ARCH = dict(
    embed_dims=(8, 16, 16, 24),
    depths=(2, 2, 1, 1),
    kernel_sizes=(3, 5, 3, 3),
    expansions=(2, 3, 2, 2),
    head_dim=8,
)

# Task -> name of the demo model.
DEMOS = {
    'Image Classification': 'hatnet-tiny_2xb16-6e_demo',
    'Semantic Segmentation': 'fpn_hatnet-tiny_2xb4-400_demo',
    'Object Detection': 'retinanet_hatnet-tiny_fpn_2xb4-6e_demo',
    'Instance Segmentation': 'mask-rcnn_hatnet-tiny_fpn_2xb4-6e_demo',
}


def official_shapes(arch):
    """Keys and shapes of an official checkpoint."""
    with open(DATA / 'state_dict' / f'{arch}.csv') as file:
        return {
            row['key']: tuple(map(int, row['shape'].split('x')))
            for row in csv.DictReader(file)
        }


def golden_weight(key, shape):
    """The weight that the golden outputs were computed with."""
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    noise = rng.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        noise /= np.sqrt(np.prod(shape[1:]))
    elif 'norm' in key or key.startswith('patch_embed.1.'):
        noise = 0.1 * noise + (1 if key.endswith('.weight') else 0)
    else:
        noise = 0.1 * noise
    return torch.from_numpy(noise.astype(np.float32))


def golden_image(height=224, width=224):
    rng = np.random.RandomState(210603180)
    image = rng.standard_normal((2, 3, height, width)).astype(np.float32)
    return torch.from_numpy(image)


@pytest.fixture(scope='session')
def official():
    """Function that makes an official state dict, proj_norm included."""
    made = {}

    def make(arch):
        if arch not in made:
            made[arch] = {
                key: golden_weight(key, shape)
                for key, shape in official_shapes(arch).items()
            }
        return dict(made[arch])

    return make


@pytest.fixture(scope='session')
def golden():
    """Function that reads what the official code computed."""

    def read(arch):
        return np.load(DATA / 'golden' / f'hatnet_{arch}_224x224.npz')

    return read


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """Function that writes a checkpoint for a demo model: random weights."""
    folder = tmp_path_factory.mktemp('trained')

    @cache
    def write(name, with_meta=True):
        torch.manual_seed(0)
        model = mmhatnet.get_model(name)
        content = dict(state_dict=model.state_dict())
        if with_meta:
            # As mmseg's checkpoints have it.
            meta = dict(label_map=None, reduce_zero_label=True)
            meta.update(model.dataset_meta)
            content['meta'] = dict(dataset_meta=meta)
        path = folder / f'{name}-{with_meta}.pth'
        torch.save(content, path)
        return str(path)

    return write


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
