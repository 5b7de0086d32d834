import sys
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from helpers import SMALL_ARCH, TOOLS, call_tool
from PIL import Image

from mmhatnet.analysis.attention import attend_from
from mmhatnet.analysis.attention_figure import draw_attention
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.datasets.demo import CLASSES
from mmhatnet.models import HATNet
from mmhatnet.models.hatnet import HMHSA

GRIDS = dict(grid_sizes=(4, 3, 8), ds_ratios=(5, 2, 2))


@pytest.fixture
def model():
    model = HATNet(SMALL_ARCH, **GRIDS).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # uneven attention
    return model


def attention_at(attn, x, token):
    """Outputs of the block for a token, and the values they average."""
    y, x_ = token
    local = attn.local_attention(x)
    outputs = [local[0, :, y, x_]]
    values = [attn.qkv(attn.norm(x))[0].chunk(3)[2]]
    if isinstance(attn, HMHSA):
        normed = attn.grid_norm(x + local)
        outputs.append(attn.global_attention(normed)[0, :, y, x_])
        pooled = torch.nn.functional.avg_pool2d(
            normed, attn.ds_ratio, ceil_mode=True, count_include_pad=False
        )
        values.append(attn.kv(attn.pool_norm(pooled))[0].chunk(2)[1])
    return outputs, values


def test_auto_ratio(model):
    """The side of the cells depends on the map, and is drawn."""
    model.set_grids(ds_ratios='auto')
    image = torch.randn(1, 3, 224, 288)
    found = attend_from(model, image, (100, 50))
    assert [attention.ds_ratio for attention in found] == [9, 5, 2, None]
    assert found[0].pooled.shape[1:] == (7, 8)  # 56x72 tokens
    draw_attention(np.zeros((224, 288, 3), np.uint8), (100, 50), found)


@pytest.mark.parametrize('point', [(0, 0), (61.5, 40), (93, 109), (95.9, 3)])
@pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
@torch.no_grad()
def test_weights_are_those_of_the_model(point, attn_type, model):
    """Their averages of the values are the outputs of the block."""
    if attn_type == 'window':
        weights = model.state_dict()
        model = HATNet(SMALL_ARCH, attn_types=['window'] * 3, **GRIDS).eval()
        own = model.state_dict()
        model.load_state_dict({key: weights[key] for key in own})
    image = torch.randn(1, 3, 110, 96)
    inputs = {}
    for stage in model.stages:
        stage[-1].attn.register_forward_pre_hook(
            lambda attn, args: inputs.update({attn: args[0]})
        )
    found = attend_from(model, image, point)
    assert [attention.stage for attention in found] == [0, 1, 2, 3]
    for attention, stage in zip(found, model.stages, strict=True):
        attn = stage[-1].attn
        rows, columns = attention.shape
        y, x = attention.token
        assert y / rows <= point[1] / 110 < (y + 1) / rows
        assert x / columns <= point[0] / 96 < (x + 1) / columns
        top, left, bottom, right = attention.window
        assert top <= y < bottom
        assert left <= x < right
        outputs, values = attention_at(attn, inputs[attn], attention.token)
        values[0] = values[0][:, top:bottom, left:right]
        weights = [attention.local, attention.pooled][: len(outputs)]
        for weight, output, value in zip(
            weights, outputs, values, strict=True
        ):
            heads = value.reshape(attn.num_heads, -1, *value.shape[1:])
            result = (weight[:, None] * heads).sum(dim=(2, 3)).flatten()
            torch.testing.assert_close(result, output, rtol=1e-4, atol=1e-5)


def test_figure(model, tmp_path):
    """Each head of each attention has a panel with the peak in its title."""
    image = torch.randn(1, 3, 64, 96)
    found = attend_from(model, image, (30, 20))
    pixels = np.zeros((64, 96, 3), np.uint8)
    figure = draw_attention(pixels, (30, 20), found)
    titles = [axes.get_title() for axes in figure.axes]
    for what, maps in (
        ('local', [attention.local for attention in found[:3]]),
        ('global', [attention.pooled for attention in found[:3]]),
        ('head', [found[3].local]),
    ):
        panels = [title for title in titles if title.startswith(what)]
        weights = [weight for heads in maps for weight in heads]
        assert len(panels) == len(weights)
        for title, weight in zip(panels, weights, strict=True):
            assert title.endswith(f'{weight.max() * weight.numel():.2f}x')
    figure.savefig(tmp_path / 'figure.png')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(point=(96, 0)), r'96, 0 is outside the image of 96x64'),
        (dict(point=(0, -1)), r'0, -1 is outside'),
        (dict(block=1), r'from -1 to 0, as the shortest stage has 1; got 1'),
    ],
)
def test_wrong_arguments(arguments, message, model):
    image = torch.randn(1, 3, 64, 96)
    with pytest.raises(ValueError, match=message):
        attend_from(model, image, **{'point': (0, 0), **arguments})


def test_tool(tmp_path):
    """The config is any model's, the checkpoint any one with the backbone."""
    model = HATNet('tiny')
    model.init_weights()
    torch.save(model.state_dict(), tmp_path / 'backbone.pth')
    noise = np.random.RandomState(0).randint(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'image.png')
    tool = TOOLS / 'visualization' / 'vis_attention.py'
    call_tool(
        *(tool, 'fpn_hatnet-tiny_2xb4-400_demo', tmp_path / 'image.png'),
        *('--checkpoint', tmp_path / 'backbone.pth', '--size', 64),
        *('--point', 100, 70, '--out', tmp_path / 'new' / 'figure.png'),
        *('--cfg-options', 'model.backbone.grid_sizes=3,5,7'),
        *(
            'model.data_preprocessor.mean=None',
            'model.data_preprocessor.std=None',
        ),
    )
    with Image.open(tmp_path / 'new' / 'figure.png') as figure:
        assert min(figure.size) > 500
    no_image = tmp_path / 'backbone.pth'
    output = call_tool(tool, 'hatnet-tiny_8xb128_in1k', no_image, code=1)
    assert 'cannot identify image file' in output


@pytest.mark.parametrize(('flip', 'red'), [(True, 0), (False, 2)])
def test_order_of_the_channels(flip, red, tmp_path, monkeypatch):
    """The model gets the order of its config."""

    def attend(model, images, *args):
        seen.append(images)
        sys.exit()

    seen = []
    monkeypatch.setattr('mmhatnet.analysis.attention.attend_from', attend)
    Image.new('RGB', (64, 64), 'red').save(tmp_path / 'image.png')
    call_tool(
        TOOLS / 'visualization' / 'vis_attention.py',
        *('shape-segmentor', tmp_path / 'image.png', '--cfg-options'),
        f'model.data_preprocessor.bgr_to_rgb={flip}',
    )
    assert seen[0].mean((0, 2, 3)).argmax() == red


def test_images_of_one_channel_have_no_order(tmp_path, monkeypatch):
    def attend(model, images, *args):
        assert images.shape[1] == 1
        sys.exit()

    monkeypatch.setattr('mmhatnet.analysis.attention.attend_from', attend)
    Image.new('L', (64, 64)).save(tmp_path / 'image.png')
    weights = HATNet('tiny', in_channels=1).state_dict()
    torch.save(weights, tmp_path / 'backbone.pth')
    call_tool(
        TOOLS / 'visualization' / 'vis_attention.py',
        *('hatnet-tiny_8xb128_in1k', tmp_path / 'image.png'),
        *('--checkpoint', tmp_path / 'backbone.pth', '--cfg-options'),
        'model.backbone.in_channels=1',
        'data_preprocessor.mean=[128]',
        'data_preprocessor.std=[128]',
        'test_dataloader.dataset.pipeline.0.color_type=grayscale',
    )


class TestPredictionsBesideTheTruth:
    TOOL = TOOLS / 'visualization' / 'vis_predictions.py'

    def test_panels(self, demo_folder, monkeypatch):
        """The prediction of the shipped model is compared with the truth."""
        monkeypatch.chdir(demo_folder)
        cfg = load_model_config('shape-segmentor')
        cfg.test_dataloader = None  # the validation's data stand in
        draw = run_path(self.TOOL)['draw_montage']
        figure = draw(cfg, 'hatnet://shape-segmentor', 9)
        titles = [axis.get_title() for axis in figure.axes]
        count = len(list(Path('data/demo').glob('ade/*/images/val*/*')))
        assert titles.count('truth') == titles.count('image') == count > 1
        shown = [axis.images[0].get_array() for axis in figure.axes[:3]]
        image, prediction, truth = map(np.asarray, shown)
        same = (prediction == truth).all(-1)
        assert titles[1] == f'prediction: {100 * same.mean():.0f} % right'
        # Colours of classes on a grey image.
        assert np.ptp(truth.reshape(-1, 3), -1).max() > 50
        assert image.shape == truth.shape == (64, 64, 3)
        (legend,) = figure.legends
        labels = {text.get_text() for text in legend.get_texts()}
        assert 'background' in labels
        assert labels <= {'background', *CLASSES}

    def test_command(self, demo_folder):
        output = call_tool(
            *(self.TOOL, 'shape-segmentor', '--count', 1, '--out', 'a/b.png'),
            cwd=demo_folder,
        )
        assert output.endswith('a/b.png\n')
        assert Image.open(demo_folder / 'a' / 'b.png').width > 400

    @pytest.mark.parametrize(
        ('model', 'message'),
        [
            ('cifar10-classifier', 'need a segmentor: for other models, use'),
            ('shape-segmentor', 'make_demo_data.py'),
        ],
    )
    def test_wrong_model_or_no_data(self, model, message, tmp_path):
        output = call_tool(self.TOOL, model, cwd=tmp_path, code=1)
        assert message in output.splitlines()[-1]
