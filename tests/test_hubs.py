"""torch.hub and the Hugging Face hub, without a network."""

import pytest
import torch
from helpers import CLS_GRIDS, ROOT, SMALL_ARCH

IMAGE = torch.rand(1, 3, 70, 50)


def assert_equal(model, expected):
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IMAGE), expected.eval()(IMAGE))


def load(name, *args, **kwargs):
    return torch.hub.load(str(ROOT), name, *args, source='local', **kwargs)


def test_torch_hub(tmp_path):
    classifier = load('hatnet_tiny')
    with torch.no_grad():
        assert classifier(IMAGE).shape == (1, 1000)
    path = tmp_path / 'classifier.pth'
    torch.save(classifier.state_dict(), path)
    backbone = load('hatnet', 'tiny', str(path), out_indices=-1)
    backbone.set_grids(*CLS_GRIDS.values())
    with torch.no_grad():
        expected = classifier.extract_feat(IMAGE, stage='backbone')
        torch.testing.assert_close(backbone.eval()(IMAGE)[-1], expected[-1])


def test_mixin(tmp_path):
    pytest.importorskip('huggingface_hub')
    from mmhatnet.hub import HubHATNet

    model = HubHATNet(SMALL_ARCH, grid_sizes=(4, 4, 4), out_indices=(1, 3))
    model.save_pretrained(tmp_path)
    assert (tmp_path / 'model.safetensors').exists()
    found = HubHATNet.from_pretrained(tmp_path)
    assert found.grid_sizes == (4, 4, 4)
    assert_equal(found, model)
    model.set_grids((2, 2, 2), 'auto')
    model.save_pretrained(tmp_path)
    assert_equal(HubHATNet.from_pretrained(tmp_path), model)


def test_timm_folder(tmp_path):
    """The layout of timm's models on the hub."""
    timm = pytest.importorskip('timm')
    model = timm.create_model('hatnet_tiny', num_classes=4)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    found = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert_equal(found, model)
