"""torch.hub and the Hugging Face hub, without a network."""

import json
import subprocess

import pytest
import torch
from helpers import CLS_GRIDS, ROOT, SMALL_ARCH
from safetensors.torch import load, save_file
from torch import nn

IMAGE = torch.rand(1, 3, 70, 50)
NORM = dict(type='GN', num_groups=1, eps=1e-6)


def load_from_hub(name, *args, **kwargs):
    return torch.hub.load(str(ROOT), name, *args, source='local', **kwargs)


@torch.no_grad()
def test_torch_hub(tmp_path):
    classifier = load_from_hub('hatnet_tiny')
    assert classifier(IMAGE).shape == (1, 1000)
    path = tmp_path / 'classifier.pth'
    torch.save(classifier.state_dict(), path)
    backbone = load_from_hub('hatnet', 'tiny', str(path), out_indices=-1)
    backbone.set_grids(*CLS_GRIDS.values())
    expected = classifier.extract_feat(IMAGE, stage='backbone')
    torch.testing.assert_close(backbone.eval()(IMAGE)[-1], expected[-1])


@pytest.fixture
def hub():
    """HATNet with methods for the hub."""
    pytest.importorskip('huggingface_hub')
    from mmhatnet.apis.hub import HubHATNet

    return HubHATNet


@pytest.fixture
def timm():
    return pytest.importorskip('timm')


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Function that changes arguments in a folder; no command may start."""
    started = []
    monkeypatch.setattr(
        subprocess, 'Popen', lambda *args, **_: started.append(args)
    )

    def write(part=None, **arguments):
        path = tmp_path / 'config.json'
        content = json.loads(path.read_text())
        (content.setdefault(part, {}) if part else content).update(arguments)
        path.write_text(json.dumps(content))

    yield write
    assert not started


@torch.no_grad()
def test_mixin(hub, tmp_path):
    model = hub(
        SMALL_ARCH,
        grid_sizes=(4, 4, 4),
        out_indices=torch.tensor([1, 3]),  # as an array
        init_cfg=dict(type='Pretrained', checkpoint='gone.pth'),
    )
    for grids in ((4, 4, 4),), ((2, 2, 2), 'auto'):
        model.set_grids(*grids)
        model.save_pretrained(tmp_path)
        found = hub.from_pretrained(tmp_path)
        assert found.grid_sizes == grids[0]
        torch.testing.assert_close(found.eval()(IMAGE), model.eval()(IMAGE))
    assert (tmp_path / 'model.safetensors').exists()


# An argument that runs a command wherever a registry resolves it.
STRANGER = dict(type='subprocess.Popen', args=['touch', 'x'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        *(
            ({name: STRANGER}, f'^{name} from a file')
            for name in ('act_cfg', 'out_norm_cfg', 'init_cfg')
        ),
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
def test_arguments_of_a_folder(arguments, message, hub, change, tmp_path):
    hub(SMALL_ARCH).save_pretrained(tmp_path)
    change(**arguments)
    with pytest.raises(ValueError, match=message):
        hub.from_pretrained(tmp_path)


@pytest.mark.parametrize('text', ['[]', '3', '[' * 10**5])
def test_config_that_is_no_dict(text, hub, tmp_path):
    hub(SMALL_ARCH).save_pretrained(tmp_path)
    # With one of the call, the mixin would not tell what the file has.
    with pytest.raises(ValueError, match='by their names'):
        hub.from_pretrained(tmp_path, config=None)
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match='cannot be loaded'):
        hub.from_pretrained(tmp_path)


def test_arguments_that_stay_free(hub, change, tmp_path):
    """Known layers of a folder, and whatever a caller passes."""
    hub(SMALL_ARCH).save_pretrained(tmp_path)
    change(act_cfg=dict(type='ReLU', inplace=False))
    assert isinstance(hub.from_pretrained(tmp_path).stem[2], nn.ReLU)
    own = hub.from_pretrained(tmp_path, act_cfg=dict(type=nn.Mish))
    assert isinstance(own.stem[2], nn.Mish)
    with pytest.raises(ValueError, match='^act_cfg from a file'):
        own.save_pretrained(tmp_path / 'own')


def damage(folder, kind):
    """Damage the weights in a folder, and get the word that says so."""
    path = folder / 'model.safetensors'
    weights = load(path.read_bytes())
    key = min(weights)  # safetensors has them in any order
    value, message = weights[key], 'not finite'
    if kind == 'renamed':
        weights['typo.weight'] = weights.pop(key)
        message = 'missing: .*unexpected: .*typo'
    elif kind == 'shape':
        weights[key], message = value[:1].clone(), 'wrong shape'
    elif kind in ('long', 'complex64'):
        weights[key] = value.to(getattr(torch, kind))
        message = 'wrong type'
    elif kind == 'prefix':
        weights[f'module.{key}'], message = value + 1, 'prefix'
    else:
        # 1e300 is infinite in the model.
        dtype = torch.double if kind == '1e300' else value.dtype
        weights[key] = value.to(dtype, copy=True)
        weights[key].flatten()[-1] = float(kind)
    save_file(weights, path)
    return message


@pytest.mark.parametrize(
    'kind',
    [
        *('renamed', 'shape', 'long', 'complex64', 'prefix'),
        *('nan', 'inf', '1e300'),
    ],
)
def test_weights_of_a_folder(kind, hub, tmp_path):
    hub(SMALL_ARCH).save_pretrained(tmp_path)
    message = damage(tmp_path, kind)
    for strict in (True, False):
        with pytest.raises(ValueError, match=message):
            hub.from_pretrained(tmp_path, strict=strict)


def test_pickle_of_a_folder(hub, tmp_path):
    """It is read by its content, without what is not data."""
    hub(SMALL_ARCH).save_pretrained(tmp_path)
    path = tmp_path / 'model.safetensors'
    weights = load(path.read_bytes())
    torch.save(dict(weights, other=subprocess.Popen), path)
    found = hub.from_pretrained(tmp_path).state_dict()
    torch.testing.assert_close(found, weights)


@pytest.fixture
def timm_folder(timm, tmp_path):
    """The layout of timm's models on the hub."""
    model = timm.create_model('hatnet_tiny', num_classes=4)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    return tmp_path


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(act_cfg=STRANGER), '^act_cfg from a file'),
        (dict(typo=1), "no argument 'typo'"),
        (dict(num_classes=10**7), 'num_classes is an integer'),
        (dict(in_chans=10**7), '^in_channels from a file'),
    ],
)
def test_arguments_for_timm(arguments, message, timm, timm_folder, change):
    change('model_args', **arguments)
    with pytest.raises(ValueError, match=message):
        timm.create_model(f'local-dir:{timm_folder}')


@pytest.mark.parametrize(
    ('kind', 'classes'), [('renamed', 4), ('prefix', 9), ('1e300', 9)]
)
def test_weights_for_timm(kind, classes, timm, timm_folder):
    message = damage(timm_folder, kind)
    options = dict(pretrained=True, num_classes=classes)
    with pytest.raises(ValueError, match=message):
        timm.create_model(f'local-dir:{timm_folder}', **options)


def test_files_for_timm(timm, timm_folder):
    path = timm_folder / 'model.safetensors'
    weights = load(path.read_bytes())
    for pickled in False, True:
        if pickled:
            path.unlink()
            content = dict(weights, x=subprocess.Popen)
            torch.save(content, timm_folder / 'pytorch_model.bin')
        model = timm.create_model(f'local-dir:{timm_folder}', pretrained=True)
        torch.testing.assert_close(model.state_dict(), weights)
        assert model.pretrained_cfg['source'] == 'local-dir'


def assert_initial_weights(model):
    """All layers have the authors' distribution."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert abs(layer.weight.std() - 0.0176) < 0.003
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize('source', ['hub', 'classifier of the hub', 'timm'])
def test_initial_weights(source, request):
    if source == 'timm':
        timm = request.getfixturevalue('timm')
        model = timm.create_model('hatnet_tiny')
        model.reset_classifier(1000)
    else:
        classifier = source.startswith('classifier')
        arguments = ['hatnet_tiny'] if classifier else ['hatnet', 'tiny']
        model = load_from_hub(*arguments)
    assert_initial_weights(model)
