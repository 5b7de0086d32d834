import pickle

import pytest
import torch
from helpers import Payload, error_of_last_stage, pretrained
from made_files import FORMATS, save
from safetensors.torch import save_file

from mmhatnet.weights.files import read_checkpoint, unwrap_state_dict


@pytest.mark.parametrize('form', FORMATS)
def test_reading_runs_no_code_of_the_file(form, official, tmp_path, golden):
    path, mark = tmp_path / 'evil.pth', tmp_path / 'mark'
    save({'model': official('tiny'), 'args': Payload(mark)}, path, form)
    model = pretrained(str(path))
    assert error_of_last_stage(model, golden) < 5e-5
    save(Payload(mark), path, form)
    with pytest.raises(ValueError, match='no state dict'):
        read_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # the payload works


@pytest.mark.parametrize(
    'content',
    [b'', b'<html></html>', b'PK\3\4', pickle.dumps(Payload('mark'))],
)
def test_no_checkpoint(content, tmp_path):
    path = tmp_path / 'damaged.pth'
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        read_checkpoint(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match='damaged.pth is not a checkpoint'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ('content', 'found'),
    [({}, 'nothing'), ({'epoch': 3}, 'epoch')],
)
def test_no_tensors(content, found):
    with pytest.raises(ValueError, match=f'no tensors.*, but {found}'):
        unwrap_state_dict(content)
    tensor = torch.zeros(1)
    assert unwrap_state_dict({'module.a': tensor, **content}) == {'a': tensor}


@pytest.mark.parametrize('name', ['model.pt', 'model.bin'])
@pytest.mark.parametrize('save', [torch.save, save_file])
def test_names(name, save, tmp_path):
    """A file is read by its content, whatever its name is."""
    save({'a': torch.ones(2)}, tmp_path / name)
    assert torch.equal(read_checkpoint(tmp_path / name)['a'], torch.ones(2))
