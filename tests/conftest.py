from functools import cache

import numpy as np
import pytest
import torch
from helpers import DATA, golden_weight, official_shapes

import mmhatnet


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
