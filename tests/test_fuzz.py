"""Random arguments, sizes, configs and files: right values or clear errors.

``MMHATNET_FUZZ`` is the number of examples of each test.
"""

import io
import json
import os
from argparse import ArgumentError, ArgumentParser
from contextlib import suppress
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from helpers import SMALL_ARCH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmhatnet.datasets import coco_to_semantic
from mmhatnet.datasets.coco import check_coco
from mmhatnet.engine.cli import add_cfg_options
from mmhatnet.models import HATNet
from mmhatnet.runtime.images import read_size, unreadable

fuzz = settings(
    max_examples=int(os.environ.get('MMHATNET_FUZZ', 25)),
    deadline=None,
    derandomize='MMHATNET_FUZZ' not in os.environ,
    suppress_health_check=list(HealthCheck),
)
sizes = st.integers(1, 9)
triples = st.tuples(sizes, sizes, sizes)


def outcome(function, *args, **kwargs):
    """The result; None after a ValueError with a message."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        message = str(error)
    assert message
    return None


def stages(values):
    return st.tuples(*[values] * 4)


@st.composite
def arguments(draw):
    """Legal arguments of HATNet."""
    head_dim = draw(st.sampled_from([2, 3, 8]))
    dims = draw(stages(st.integers(1, 3)))
    arch = dict(
        embed_dims=tuple(head_dim * dim for dim in dims),
        depths=draw(stages(st.integers(1, 2))),
        kernel_sizes=draw(stages(st.sampled_from([1, 3, 5]))),
        expansions=draw(stages(st.integers(1, 3))),
        head_dim=head_dim,
    )
    attn_type = st.sampled_from(['h-mhsa', 'window'])
    return dict(
        arch=arch,
        in_channels=draw(st.integers(1, 5)),
        grid_sizes=draw(triples),
        ds_ratios=draw(triples),
        attn_types=draw(st.tuples(*[attn_type] * 3)),
        dw_conv=draw(st.booleans()),
        with_cp=draw(st.booleans()),
        fast=draw(st.booleans()),
    )


class TestHATNet:
    @fuzz
    @given(
        kwargs=arguments(),
        shape=st.tuples(
            st.integers(1, 2), st.integers(32, 120), st.integers(32, 120)
        ),
        channels_last=st.booleans(),
        seed=st.integers(0, 2**20),
    )
    def test_equations(self, kwargs, shape, channels_last, seed):
        """Features and gradients are those of loops over windows and heads."""
        torch.manual_seed(seed)
        model = HATNet(**kwargs).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        n, height, width = shape
        x = torch.randn(n, kwargs['in_channels'], height, width).double()
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        found = model(x)
        each = [naive.forward(model, image) for image in x]
        expected = [torch.stack(maps) for maps in zip(*each, strict=True)]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
        weights = [torch.randn_like(feature) for feature in found]
        inputs = [x, *model.parameters()]
        gradients = [
            torch.autograd.grad(
                sum((f * w).sum() for f, w in zip(maps, weights, strict=True)),
                inputs,
            )
            for maps in (found, expected)
        ]
        for a, b in zip(*gradients, strict=True):
            scale = b.abs().max().item() + 1
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7 * scale)

    @fuzz
    @given(kwargs=arguments(), data=st.data())
    def test_illegal_arguments(self, kwargs, data):
        """ValueError, whatever is given: no other error, no wrong model."""
        name = data.draw(
            st.sampled_from(
                [
                    *('in_channels', 'grid_sizes', 'ds_ratios', 'attn_types'),
                    *('out_indices', 'frozen_stages', 'drop_path_rate'),
                    *('drop_rate', 'arch'),
                ]
            )
        )
        number = st.integers(-3, 9) | st.floats() | st.none() | st.booleans()
        odd = number | st.text(max_size=3) | st.lists(number, max_size=4)
        kwargs[name] = data.draw(odd)
        if name == 'arch':
            arch = dict(SMALL_ARCH)
            arch[data.draw(st.sampled_from(sorted(arch)))] = data.draw(odd)
            kwargs['arch'] = data.draw(st.sampled_from([kwargs['arch'], arch]))
        model = outcome(HATNet, **kwargs)
        if model is None:
            return
        with torch.no_grad():
            features = model(torch.zeros(1, model.stem[0].in_channels, 40, 40))
        assert len(features) == len(model.out_indices)


@fuzz
@given(text=st.text(st.sampled_from('ab=.,[]()"\'0 1{}:-'), max_size=20))
def test_cfg_options(text):
    """Any text is a value or argparse's error."""
    parser = ArgumentParser(exit_on_error=False)
    add_cfg_options(parser)
    with suppress(SystemExit, ArgumentError):
        options = parser.parse_args(['--cfg-options', f'a.b={text}'])
        assert list(options.cfg_options) == ['a.b']


value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**10), 10**10)
    | st.floats()
    | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def annotations(draw):
    """COCO's JSON, in which some values are wrong."""
    content = dict(
        images=[
            dict(id=i, file_name=f'{i}.jpg', width=20, height=10)
            for i in range(2)
        ],
        categories=[dict(id=i, name=f'class {i}') for i in (1, 2)],
        annotations=[
            dict(
                id=i,
                image_id=i % 2,
                category_id=1 + i % 2,
                bbox=[1, 1, 5, 5],
                area=25,
                iscrowd=0,
                segmentation=[[1, 1, 6, 1, 6, 6, 1, 6]],
            )
            for i in range(4)
        ],
    )
    for _ in range(draw(st.integers(0, 2))):
        part = content[draw(st.sampled_from(sorted(content)))]
        if isinstance(part, list) and part:
            entry = part[draw(st.integers(0, len(part) - 1))]
            if isinstance(entry, dict) and entry:
                key = draw(st.sampled_from(sorted(entry)))
                entry[key] = draw(value)
        if draw(st.integers(0, 5)) == 0:
            content[draw(st.sampled_from(sorted(content)))] = draw(value)
    return content


class TestAnnotations:
    @fuzz
    @given(content=annotations() | value)
    def test_checks(self, content):
        """They report what is wrong, and do not fail of it."""
        content = json.loads(json.dumps(content))
        outcome(check_coco, content, ('class 1', 'class 2'))

    @fuzz
    @given(content=annotations())
    def test_label_maps(self, content, tmp_path_factory):
        """A label map of each image, or ValueError, without much memory."""
        pytest.importorskip('pycocotools')
        folder = tmp_path_factory.mktemp('labels')
        (folder / 'a.json').write_text(json.dumps(content))
        out = folder / 'out'
        if outcome(coco_to_semantic, folder / 'a.json', out) is None:
            return
        for image in content['images']:
            name = Path(image['file_name']).with_suffix('.png').name
            with Image.open(out / name) as labels:
                assert labels.size == (image['width'], image['height'])


def _samples():
    found = []
    for kind, mode in (
        *(('PNG', 'RGB'), ('PNG', 'P'), ('JPEG', 'RGB'), ('TIFF', 'I;16')),
        *(('BMP', 'L'), ('WEBP', 'RGB'), ('GIF', 'P')),
    ):
        file = io.BytesIO()
        image = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(15, 20))
        image.convert('L' if mode == 'I;16' else mode).save(file, kind)
        found.append((f'a.{kind.lower()}', file.getvalue()))
    return found


@fuzz
@given(
    sample=st.sampled_from(_samples()),
    edits=st.lists(
        st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8
    ),
    end=st.integers(0, 2**16),
)
def test_image_files(sample, edits, end, tmp_path_factory):
    """A reason or an image; no other error."""
    name, content = sample
    content = bytearray(content)
    for place, byte in edits:
        content[place % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[: end % len(content) + 1] if end % 3 else content)
    reason = unreadable(path)
    if reason is None:
        size, _ = read_size(path)
        assert size is None or min(size) > 0
    else:
        assert reason
