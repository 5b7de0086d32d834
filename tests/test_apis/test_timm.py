"""HAT-Net among the models of timm, as timm tests its own."""

import pickle

import pytest
import torch
from helpers import ARCHS

import mmhatnet
from mmhatnet.models import HATNet
from mmhatnet.weights.official import to_official

timm = pytest.importorskip('timm')
TINY = 'hatnet_tiny'


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model(TINY).eval()


@pytest.fixture(scope='module')
def image():
    return torch.randn(2, 3, 65, 97)


@pytest.fixture
def release(model, monkeypatch):
    """Weights in place of the authors'."""
    monkeypatch.setattr(
        'mmhatnet.apis.timm_models.load_from_hatnet',
        lambda name: dict(state_dict=model.state_dict()),
    )


def test_names():
    names = {f'hatnet_{arch}' for arch in ARCHS}
    assert set(timm.list_models('hatnet*')) == names
    pretrained = timm.list_models('hatnet*', pretrained=True)
    assert set(pretrained) == {f'{name}.in1k' for name in names}


@torch.no_grad()
def test_equals_mmpretrain(model, image):
    """The keys and the result are those of the classifier of mm."""
    mm = mmhatnet.get_model('hatnet-tiny_8xb128_in1k')
    mm.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(image), mm(image))


def test_training(image):
    model = timm.create_model(TINY, num_classes=5, drop_path_rate=0.1)
    model.set_grad_checkpointing()
    model.train()(image).mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_classifier(model, image):
    copy = pickle.loads(pickle.dumps(model))
    features = copy.forward_features(image)
    assert features.shape == (2, copy.num_features, 3, 4)
    pooled = copy.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, copy.head_hidden_size)
    assert copy.get_classifier().out_features == copy.num_classes == 1000
    copy.reset_classifier(7)
    assert copy(image).shape == (2, 7)
    copy.reset_classifier(0)
    torch.testing.assert_close(copy(image), pooled)
    torch.testing.assert_close(features.mean((2, 3)), pooled)
    copy.reset_classifier(0, '')
    torch.testing.assert_close(copy(image), features)


@torch.no_grad()
@pytest.mark.parametrize(
    ('indices', 'stages'),
    [(None, [0, 1, 2, 3]), (2, [2, 3]), ([0, -2], [0, 2]), ([1], [1])],
)
def test_intermediates(indices, stages, model, image):
    maps = model.backbone(image)
    expected = [maps[i] for i in stages]
    last, found = model.forward_intermediates(image, indices)
    torch.testing.assert_close(last, maps[-1])
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="'NCHW'"):
        model.forward_intermediates(image, output_fmt='NLC')


@torch.no_grad()
@pytest.mark.parametrize(
    ('out_indices', 'options'),
    [
        ((0, 1, 2, 3), dict(feature_cls='hook')),  # by names of modules
        ((0, 1, 2, 3), {}),
        ((1, 2), {}),
        ((-2,), {}),
    ],
)
def test_features(out_indices, options, image):
    model = timm.create_model(
        TINY, features_only=True, out_indices=out_indices, **options
    ).eval()
    backbone = HATNet('tiny', out_indices=out_indices).eval()
    inner = model.body if options else model.model
    backbone.load_state_dict(inner.backbone.state_dict())
    found, expected = model(image), backbone(image)
    torch.testing.assert_close(tuple(found), expected)
    assert model.feature_info.channels() == [x.shape[1] for x in expected]
    heights = [-(-65 // stride) for stride in model.feature_info.reduction()]
    assert heights == [x.shape[2] for x in expected]


@torch.no_grad()
@pytest.mark.parametrize('settings', [{}, {'in_chans': 1}, {'num_classes': 3}])
def test_pretrained(settings, model, image, release):
    found = timm.create_model(TINY, pretrained=True, **settings).eval()
    image = image[:, :1].expand(-1, 3, -1, -1)
    features = model.forward_features(image)
    torch.testing.assert_close(
        found.forward_features(image[:, : settings.get('in_chans', 3)]),
        features,
        rtol=1e-3,
        atol=1e-4,
    )
    assert found.head.fc.out_features == settings.get('num_classes', 1000)
    maps = timm.create_model(TINY, pretrained=True, features_only=True).model
    torch.testing.assert_close(
        maps.backbone.state_dict(), model.backbone.state_dict()
    )
    for each in (found, maps):
        assert not each.pretrained_cfg.get('state_dict')


def test_files(model, tmp_path):
    """Of the authors and of mm."""
    state = model.state_dict()
    for name, content in (
        ('mm', dict(state_dict=state)),
        ('official', to_official(state)),
    ):
        path = tmp_path / f'{name}.pth'
        torch.save(content, path)
        found = timm.create_model(
            TINY,
            pretrained=True,
            pretrained_cfg_overlay=dict(file=str(path)),
        )
        torch.testing.assert_close(found.state_dict(), state)


def test_layer_decay(model):
    from timm.optim import param_groups_layer_decay

    names = {id(p): name for name, p in model.named_parameters()}
    scales = {
        names[id(parameter)]: group['lr_scale']
        for group in param_groups_layer_decay(model, layer_decay=0.5)
        for parameter in group['params']
    }
    names = 'stem.0', 'stages.0.1.mlp.fc1', 'downsamples.0.0'
    names += 'stages.1.0.mlp.fc1', 'stages.3.2.mlp.fc1'
    order = [scales[f'backbone.{name}.weight'] for name in names]
    assert order == sorted(set(order))
    assert scales['head.fc.weight'] == 1


def test_options():
    """A class is a caller's own layer, which no file can hold."""
    options = dict(act_cfg=dict(type=torch.nn.Mish), output_stride=32)
    model = timm.create_model(TINY, **options)
    assert isinstance(model.backbone.stem[2], torch.nn.Mish)
    with pytest.raises(ValueError, match='no output_stride=16: use 32'):
        timm.create_model(TINY, output_stride=16)
