import argparse
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from made_files import FORMATS, save
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from mmhatnet.weights.files import read_checkpoint, save_checkpoint
from mmhatnet.weights.reader import Unknown, read_file


@pytest.fixture
def content():
    """What checkpoints of DeiT, timm and mm hold."""
    torch.manual_seed(0)
    matrix = torch.randn(3, 4)
    buffer = HistoryBuffer([1.0, 2.5], [1, 1])
    parameter = torch.nn.Parameter(torch.randn(2))
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return dict(
        state_dict=OrderedDict(
            matrix=matrix,
            transposed=matrix.t(),
            part=matrix[1:, ::2],
            parameter=parameter,
            scalar=torch.tensor(3.5),
            empty=torch.zeros(0, 4),
            half=torch.randn(5).half(),
            bfloat=torch.randn(5).bfloat16(),
            long=torch.arange(4),
            byte=torch.arange(4, dtype=torch.uint8),
            bool=torch.tensor([True, False]),
            complex=torch.randn(2, dtype=torch.complex64),
            conjugate=torch.randn(2, dtype=torch.complex64).conj(),
            negative=torch._neg_view(torch.ones(2)),
            expanded=torch.ones(1).expand(16),
        ),
        optimizer=optimizer.state_dict(),
        message_hub=dict(log_scalars=OrderedDict(loss=buffer)),
        empty=HistoryBuffer(),
        meta=dict(
            epoch=3,
            classes=('cat', 'dog'),
            score=np.float64(0.25),
            palette=np.arange(6, dtype=np.int64).reshape(2, 3),
            columns=np.asfortranarray(np.eye(2, dtype=np.float32)),
            size=torch.Size((2, 3)),
            nothing=np.array([]),
            raw=b'\x00\xff',
        ),
    )


def assert_same(found, expected):
    if isinstance(expected, HistoryBuffer):
        assert isinstance(found, HistoryBuffer)
        found, expected = ([*x.data, x.max_length] for x in (found, expected))
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0)
    elif isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(found, expected)
        assert not isinstance(found, Unknown)


@pytest.mark.parametrize('form', FORMATS)
def test_real_content(form, content, tmp_path):
    path = tmp_path / 'file.pth'
    save(content, path, form)
    assert_same(read_file(path), content)
    assert read_file(path, 'meta')['state_dict']['matrix'].is_meta


def test_shared_storage_stays_shared(content, tmp_path):
    save(content, tmp_path / 'file.pth')
    found = read_file(tmp_path / 'file.pth')['state_dict']
    assert found['matrix'].data_ptr() == found['transposed'].data_ptr()
    found['matrix'].zero_()  # it is writable
    assert not found['part'].any()


@pytest.mark.parametrize('form', FORMATS)
def test_unknown_objects(form, tmp_path):
    """They are left out; the file can be read all the same."""
    content = dict(
        args=argparse.Namespace(lr=1),
        model=torch.nn.Linear(2, 2),  # beside the weights
        objects=np.array([argparse.Namespace()], dtype=object),
        dtype=torch.float16,
        weight=torch.ones(2),
    )
    save(content, tmp_path / 'file.pth', form)
    found = read_file(tmp_path / 'file.pth')
    assert torch.equal(found.pop('weight'), torch.ones(2))
    assert {type(value) for value in found.values()} == {Unknown}
    assert not any(value.args for value in found.values())


def test_safetensors(tmp_path):
    path = tmp_path / 'file.safetensors'
    save_file(dict(a=torch.ones(2), b=torch.arange(3)), path)
    assert read_checkpoint(path)['b'].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match='damaged'):
        read_checkpoint(path)


def test_meta_in_safetensors(tmp_path):
    content = dict(
        meta=dict(dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)])),
        state_dict=dict(a=torch.ones(2)),
    )
    path = save_checkpoint(content, tmp_path, 'weights', '.safetensors')
    assert re.fullmatch(r'weights-[0-9a-f]{8}\.safetensors', path.name)
    assert_same(read_checkpoint(path), content)
    for meta in ('[1, 2]', '{', '[' * 100000):
        save_file(content['state_dict'], path, {'mmhatnet': meta})
        with pytest.raises(ValueError, match='damaged|not a checkpoint'):
            read_checkpoint(path)


@pytest.mark.parametrize('part', [0.3, 0.9])
@pytest.mark.parametrize('form', FORMATS)
def test_half_a_file(form, part, content, tmp_path):
    path = tmp_path / 'file.pth'
    save(content, path, form)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    reasons = 'it ends too early|pickle exhausted|not enough|.*not fully|.*but'
    with pytest.raises(ValueError, match=rf'incomplete \(({reasons})'):
        read_checkpoint(path)


@pytest.mark.parametrize('name', ['data.pkl', 'data/0'])
def test_flipped_byte(name, tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(dict(weight=torch.ones(1000)), path)
    with zipfile.ZipFile(path) as archive:
        (info,) = (i for i in archive.infolist() if i.filename.endswith(name))
    data = bytearray(path.read_bytes())
    data[info.header_offset + 200] ^= 1  # behind the header
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r'damaged.*CRC|is not a checkpoint'):
        read_checkpoint(path)
