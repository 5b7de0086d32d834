"""torch.hub and the Hugging Face hub, without a network."""

import json
import subprocess

import pytest
import torch
from helpers import CLS_GRIDS, ROOT, SMALL_ARCH
from safetensors.torch import load, save_file
from torch import nn

IMAGE = torch.rand(1, 3, 70, 50)


def assert_equal(model, expected):
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IMAGE), expected.eval()(IMAGE))


def load_from_hub(name, *args, **kwargs):
    return torch.hub.load(str(ROOT), name, *args, source='local', **kwargs)


def test_torch_hub(tmp_path):
    classifier = load_from_hub('hatnet_tiny')
    with torch.no_grad():
        assert classifier(IMAGE).shape == (1, 1000)
    path = tmp_path / 'classifier.pth'
    torch.save(classifier.state_dict(), path)
    backbone = load_from_hub('hatnet', 'tiny', str(path), out_indices=-1)
    backbone.set_grids(*CLS_GRIDS.values())
    with torch.no_grad():
        expected = classifier.extract_feat(IMAGE, stage='backbone')
        torch.testing.assert_close(backbone.eval()(IMAGE)[-1], expected[-1])


def test_mixin(tmp_path):
    pytest.importorskip('huggingface_hub')
    from mmhatnet.apis.hub import HubHATNet

    model = HubHATNet(
        SMALL_ARCH,
        grid_sizes=(4, 4, 4),
        out_indices=torch.tensor([1, 3]),  # as an array
        init_cfg=dict(type='Pretrained', checkpoint='gone.pth'),
    )
    model.save_pretrained(tmp_path)
    assert (tmp_path / 'model.safetensors').exists()
    found = HubHATNet.from_pretrained(tmp_path)
    assert found.grid_sizes == (4, 4, 4)
    assert_equal(found, model)
    model.set_grids((2, 2, 2), 'auto')
    model.save_pretrained(tmp_path)
    assert_equal(HubHATNet.from_pretrained(tmp_path), model)


NORM = dict(type='GN', num_groups=1, eps=1e-6)


@pytest.fixture
def hub_folder(tmp_path):
    """A folder of HubHATNet, and a function that changes its arguments."""
    pytest.importorskip('huggingface_hub')
    from mmhatnet.apis.hub import HubHATNet

    HubHATNet(SMALL_ARCH).save_pretrained(tmp_path)

    def write(**arguments):
        path = tmp_path / 'config.json'
        path.write_text(
            json.dumps({**json.loads(path.read_text()), **arguments})
        )
        return tmp_path

    return HubHATNet, write


def stranger(name, folder):
    """An argument that runs a command wherever a registry resolves it."""
    return {name: dict(type='subprocess.Popen', args=['touch', f'{folder}/x'])}


@pytest.mark.parametrize('name', ['act_cfg', 'out_norm_cfg', 'init_cfg'])
def test_folder_that_names_a_command(name, hub_folder, monkeypatch):
    started = []
    monkeypatch.setattr(
        subprocess, 'Popen', lambda *args, **_: started.append(args)
    )
    cls, write = hub_folder
    folder = write(**stranger(name, '.'))
    with pytest.raises(ValueError, match=f'^{name} from a file'):
        cls.from_pretrained(folder)
    assert not started


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(typo=1), "no argument 'typo'"),
        (dict(init_cfg=dict(type='Pretrained', checkpoint='x')), '^init_cfg'),
        (dict(act_cfg=dict(type='torch.nn.ReLU')), '^act_cfg'),
        (dict(act_cfg=None), '^act_cfg'),
        (dict(norm_cfg=dict(NORM, typo=1)), '^norm_cfg'),
        (dict(norm_cfg=dict(NORM, eps=-1)), '^norm_cfg'),
        (dict(norm_cfg=dict(type='GN')), 'arguments'),
        (dict(norm_cfg=dict(type='SiLU')), '^norm_cfg'),
        (dict(fast='yes'), '^fast'),
        (dict(in_channels=dict(a=1)), '^in_channels'),
        (dict(arch=dict(SMALL_ARCH, depths=[10**9] * 4)), '^arch'),
        (dict(arch=dict(SMALL_ARCH, embed_dims=[4096] * 4)), 'does not fit'),
        (dict(arch='tiny'), 'does not fit'),
    ],
)
def test_arguments_of_a_folder(arguments, message, hub_folder):
    cls, write = hub_folder
    with pytest.raises(ValueError, match=message):
        cls.from_pretrained(write(**arguments))


@pytest.mark.parametrize('text', ['[]', '3', '[' * 10**5])
def test_config_that_is_no_dict(text, hub_folder):
    cls, write = hub_folder
    folder = write()
    # With one of the call, the mixin would not tell what the file has.
    with pytest.raises(ValueError, match='by their names'):
        cls.from_pretrained(folder, config=None)
    (folder / 'config.json').write_text(text)
    with pytest.raises(ValueError, match='cannot be loaded'):
        cls.from_pretrained(folder)


def test_arguments_that_stay_free(hub_folder, tmp_path):
    """Known layers of a folder, and whatever a caller passes."""
    cls, write = hub_folder
    folder = write(act_cfg=dict(type='ReLU', inplace=False))
    assert isinstance(cls.from_pretrained(folder).stem[2], nn.ReLU)
    own = cls.from_pretrained(folder, act_cfg=dict(type=nn.Mish))
    assert isinstance(own.stem[2], nn.Mish)
    with pytest.raises(ValueError, match='^act_cfg from a file'):
        own.save_pretrained(tmp_path / 'own')


def read(path):
    """Weights in memory, so that their file can be replaced."""
    return load(path.read_bytes())


def damage(weights, kind):
    key = min(weights)  # safetensors has them in any order
    value = weights[key]
    if kind == 'renamed':
        weights['typo.weight'] = weights.pop(key)
        return 'missing: .*unexpected: .*typo'
    if kind == 'shape':
        weights[key] = value[:1].clone()
        return 'wrong shape'
    if kind in ('long', 'complex64'):
        weights[key] = value.to(getattr(torch, kind))
        return 'wrong type'
    if kind == 'prefix':
        weights[f'module.{key}'] = value + 1
        return 'prefix'
    if kind == '1e300':  # infinity in the model
        value = value.double()
    weights[key] = value.clone()
    weights[key].flatten()[-1] = float(kind)
    return 'not finite'


DAMAGES = ['renamed', 'shape', 'long', 'complex64', 'prefix']
DAMAGES += ['nan', 'inf', '1e300']


@pytest.mark.parametrize('kind', DAMAGES)
def test_weights_of_a_folder(kind, hub_folder):
    cls, write = hub_folder
    path = write() / 'model.safetensors'
    weights = read(path)
    message = damage(weights, kind)
    save_file(weights, path)
    for strict in (True, False):
        with pytest.raises(ValueError, match=message):
            cls.from_pretrained(path.parent, strict=strict)


def test_pickle_of_a_folder(hub_folder):
    """By its content, as our reader reads it."""
    cls, write = hub_folder
    path = write() / 'model.safetensors'
    weights = read(path)
    torch.save(weights, path)
    found = cls.from_pretrained(path.parent).state_dict()
    torch.testing.assert_close(found, weights)
    torch.save(dict(weights, other=subprocess.Popen), path)
    cls.from_pretrained(path.parent)  # what is not data is left out


@pytest.fixture
def timm_folder(tmp_path):
    """The layout of timm's models on the hub."""
    timm = pytest.importorskip('timm')
    model = timm.create_model('hatnet_tiny', num_classes=4)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    return timm, tmp_path


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (stranger('act_cfg', '.'), '^act_cfg from a file'),
        (dict(typo=1), "no argument 'typo'"),
        (dict(num_classes=10**7), 'num_classes is an integer'),
        (dict(in_chans=10**7), '^in_channels from a file'),
    ],
)
def test_arguments_of_a_timm_folder(
    arguments, message, timm_folder, monkeypatch
):
    timm, folder = timm_folder
    started = []
    monkeypatch.setattr(
        subprocess, 'Popen', lambda *args, **_: started.append(args)
    )
    path = folder / 'config.json'
    content = json.loads(path.read_text())
    content['model_args'] = {**content.get('model_args', {}), **arguments}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        timm.create_model(f'local-dir:{folder}')
    assert not started


@pytest.mark.parametrize(
    ('kind', 'classes'), [('renamed', 4), ('prefix', 9), ('1e300', 9)]
)
def test_weights_of_a_timm_folder(kind, classes, timm_folder):
    timm, folder = timm_folder
    path = folder / 'model.safetensors'
    weights = read(path)
    message = damage(weights, kind)
    save_file(weights, path)
    with pytest.raises(ValueError, match=message):
        timm.create_model(
            f'local-dir:{folder}', pretrained=True, num_classes=classes
        )


def test_files_of_a_timm_folder(timm_folder):
    timm, folder = timm_folder
    weights = read(folder / 'model.safetensors')
    found = timm.create_model(f'local-dir:{folder}', pretrained=True)
    torch.testing.assert_close(found.state_dict(), weights)
    (folder / 'model.safetensors').unlink()
    torch.save(dict(weights, x=subprocess.Popen), folder / 'pytorch_model.bin')
    found = timm.create_model(f'local-dir:{folder}', pretrained=True)
    torch.testing.assert_close(found.state_dict(), weights)
    assert found.pretrained_cfg['source'] == 'local-dir'


def has_initial_weights(model):
    """Whether all layers have the authors' distribution."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    weights = [weights, *(head.weight for head in heads)]
    biases = [m.bias for m in (*layers, *heads) if m.bias is not None]
    return all(
        abs(each.std() - 0.0176) < 0.001 and each.abs().max() <= 0.04
        for each in weights
    ) and not any(bias.any() for bias in biases)


@pytest.mark.parametrize(
    'build',
    [
        lambda: load_from_hub('hatnet', 'tiny'),
        lambda: load_from_hub('hatnet_tiny'),
        lambda: pytest.importorskip('mmhatnet.apis.hub').HubHATNet('tiny'),
        lambda: pytest.importorskip('timm').create_model('hatnet_tiny'),
    ],
)
def test_initial_weights(build):
    model = build()
    assert has_initial_weights(model)
    if hasattr(model, 'reset_classifier'):
        model.reset_classifier(1000)
        assert has_initial_weights(model)
