import os
import pickle

import pytest
import torch
from helpers import error_of_last_stage, pretrained
from safetensors.torch import save_file

from mmhatnet.weights.files import read_checkpoint, unwrap_state_dict


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('new_format', [True, False])
def test_reading_runs_no_code_of_the_file(
    new_format, official, tmp_path, golden
):
    path = tmp_path / 'evil.pth'
    mark = tmp_path / 'mark'
    torch.save(
        {'model': official('tiny'), 'args': Payload(mark)},
        path,
        _use_new_zipfile_serialization=new_format,
    )
    model = pretrained(str(path))
    assert not mark.exists()
    assert error_of_last_stage(model, golden) < 5e-5
    torch.load(path, weights_only=False)
    assert mark.exists()  # the payload works


def test_payload_instead_of_state_dict(tmp_path):
    path, mark = tmp_path / 'evil.pth', tmp_path / 'mark'
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ValueError, match=str(path)):
        read_checkpoint(path)
    torch.save(Payload(mark), path)
    with pytest.raises(ValueError, match='no state dict'):
        read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize('content', [b'', b'<html></html>', b'PK\3\4'])
def test_damaged_file(content, tmp_path):
    path = tmp_path / 'damaged.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='damaged.pth is not a checkpoint'):
        read_checkpoint(path)


def test_truncated_file(official_file, tmp_path):
    path = tmp_path / 'truncated.pth'
    with open(official_file(), 'rb') as file:
        path.write_bytes(file.read(1_000_000))
    with pytest.raises(ValueError, match='truncated.pth is not a check'):
        read_checkpoint(path)


def test_absent_file():
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        read_checkpoint('absent.pth')


@pytest.mark.parametrize(
    ('content', 'found'),
    [({}, 'nothing'), ({'epoch': 3}, r'epoch \(int\)')],
)
def test_no_tensors(content, found):
    with pytest.raises(ValueError, match=f'no tensors.*, but {found}'):
        unwrap_state_dict(content)


@pytest.mark.parametrize('name', ['model.pt', 'model.ckpt', 'model.bin'])
@pytest.mark.parametrize('form', ['torch', 'safetensors'])
def test_names(name, form, tmp_path):
    """A file is read by its content, whatever its name is."""
    weights = {'a': torch.ones(2)}
    save = torch.save if form == 'torch' else save_file
    save(weights, tmp_path / name)
    assert torch.equal(read_checkpoint(tmp_path / name)['a'], torch.ones(2))


def test_unwrap_keeps_only_tensors():
    tensor = torch.zeros(1)
    content = {'module.a': tensor, 'epoch': 3}
    assert unwrap_state_dict(content) == {'a': tensor}
