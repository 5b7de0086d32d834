"""Files of strangers, which run no code and do not crash Python."""

import argparse
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_files import FORMATS, save, write_pickle
from mmengine.logging import HistoryBuffer

from mmhatnet.weights import reader
from mmhatnet.weights.files import read_checkpoint
from mmhatnet.weights.reader import Unknown, read_file


def text(value):
    return b'X' + struct.pack('<I', len(value)) + value.encode()


DEEP = b'})' + b'\x85' * 10**5  # a dict, and a tuple of tuples
HOSTILE = dict(
    key=DEEP + b'Ns.',
    memo=b'})q\x00' + b'h\x00\x85q\x00' * 10**5 + b'h\x00Ns.',
    marks=b'}' + b'(' * 10**5 + b't' * 10**5 + b'Ns.',
    member=b'\x80\x04\x8f(' + DEEP[1:] + b'\x90.',
)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('name', HOSTILE)
def test_deep_tuples(name, form, tmp_path):
    """Python would recurse in C to hash them, and crash."""
    path = tmp_path / 'deep.pth'
    write_pickle(HOSTILE[name], path, form)
    with pytest.raises(ValueError, match='nested too deeply'):
        read_file(path)


def test_overlapping_parts(tmp_path):
    path = tmp_path / 'overlap.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}))
        archive.writestr('archive/data/0', bytes(10**5))
        archive.filelist += archive.filelist[-1:]
    with pytest.raises(ValueError, match='overlap'):
        read_file(path)


@pytest.mark.parametrize('form', FORMATS)
def test_repeated_data(form, tmp_path, monkeypatch):
    """A small file must not become gigabytes in a model."""
    path = tmp_path / 'repeated.pth'
    monkeypatch.setattr(reader, 'MAX_EXPANDED', 10**4)
    monkeypatch.setattr(reader, 'MAX_BYTES', 10**4)
    data = torch.ones(100, 100)
    for repeated in (
        [torch.ones(1).expand(3000)] * 1 + [torch.ones(1).expand(9000)],
        [data[:50].clone(), *[data.view(-1)[i:] for i in range(4)]],
    ):
        save(dict(enumerate(repeated)), path, form)
        with pytest.raises(ValueError, match='repeats its data'):
            read_file(path)
    save(dict(enumerate([data, data.clone(), data[0]])), path, form)
    assert read_file(path)[1].shape == (100, 100)
    array = np.zeros(4000, np.uint8)
    save(dict(enumerate(array.copy() for _ in range(3))), path, form)
    with pytest.raises(ValueError, match='repeats its data'):
        read_file(path)


def refuse(path):
    with pytest.raises(ValueError, match='is not a checkpoint'):
        read_checkpoint(path)


class TestHostileFiles:
    @pytest.mark.parametrize('form', FORMATS)
    def test_pointer(self, form, tmp_path):
        """Keyword arguments of a storage, which torch would follow."""
        program = b'\x80\x04' + b'ctorch\nUntypedStorage\n' + b')}'
        program += text('allocator') + b'\x8a\x08'
        program += struct.pack('<q', 0x4141414141414141) + b's\x920'
        program += b'}' + text('state_dict') + b'}s.'
        path = tmp_path / 'file.pth'
        write_pickle(program, path, form)
        assert read_checkpoint(path) == dict(state_dict={})

    @pytest.mark.parametrize(
        'name',
        [
            'torch._utils\n_rebuild_tensor_v2',
            'torch.serialization\n_legacy_load',
            'collections\nOrderedDict',
            'argparse\nNamespace',
            'numpy\ndtype',
        ],
    )
    def test_attributes_of_what_it_names(self, name, tmp_path):
        """BUILD sets no attribute of a class or function."""
        path = tmp_path / 'file.pth'
        state = b'}' + text('value') + text('evil') + b's'
        module, _, attribute = name.partition('\n')
        placeholder = reader.KNOWN.get((module, attribute), Unknown)
        before = dict(vars(placeholder))
        for build in (state + b'b', b'N' + state + b'\x86b'):
            program = b'\x80\x04c' + name.encode() + b'\n' + build + b'0}.'
            write_pickle(program, path)
            refuse(path)
        assert dict(vars(placeholder)) == before

    def test_torchscript(self, tmp_path):
        """It would run its own code in torch before 2.6."""
        path = tmp_path / 'file.pth'
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
        with pytest.raises(ValueError, match='TorchScript'):
            read_checkpoint(path)

    @pytest.mark.parametrize(
        'program',
        [
            # An index of the memo for which 64 GB would be needed.
            b'}r\xff\xff\xff\xff.',
            b'\x8e' + struct.pack('<Q', 2**62) + b'.',
            # Lists in lists, and a list in itself.
            b'}' + text('a') + b']' * 200 + b'a' * 199 + b's.',
            b'}' + text('a') + b']q\x00h\x00as.',
            # Each list holds the last one twice: 2 ** 60 in all.
            b'}'
            + text('a')
            + b']q\x00'
            + b''.join(
                b'0]q%ch%cah%ca' % (i, i - 1, i - 1) for i in range(1, 60)
            )
            + b's.',
        ],
    )
    def test_too_much(self, program, tmp_path, monkeypatch):
        monkeypatch.setattr(reader, 'MAX_OBJECTS', 10**5)
        write_pickle(b'\x80\x04' + program, tmp_path / 'file.pth')
        refuse(tmp_path / 'file.pth')

    @pytest.mark.parametrize(
        'changes',
        [
            dict(size=(100,)),
            dict(size=(2**30,), stride=(0,)),
            dict(offset=-1),
            dict(offset=2**62),
            dict(stride=(-1,)),
            dict(stride=(2**61,)),
            dict(size=(2**62, 0), stride=(1, 1), offset=5),
            dict(size=(1, 1)),
            dict(size=(2**40, 2**40), stride=(0, 0)),
            dict(size=('a',)),
            dict(storage=3),
        ],
    )
    def test_tensor_outside_its_storage(self, changes, tmp_path):
        class Tensor:
            def __reduce__(self):
                args = dict(
                    storage=torch.zeros(4)._typed_storage(),
                    offset=0,
                    size=(2,),
                    stride=(1,),
                    requires_grad=False,
                    hooks=OrderedDict(),
                )
                args |= changes
                return torch._utils._rebuild_tensor_v2, tuple(args.values())

        torch.save(dict(a=Tensor()), tmp_path / 'file.pth')
        refuse(tmp_path / 'file.pth')

    def test_compressed(self, tmp_path):
        """A few bytes could become many."""
        torch.save(dict(a=torch.zeros(10)), tmp_path / 'file.pth')
        path, form = tmp_path / 'bomb.pth', zipfile.ZIP_DEFLATED
        with (
            zipfile.ZipFile(tmp_path / 'file.pth') as archive,
            zipfile.ZipFile(path, 'w', form) as bomb,
        ):
            for name in archive.namelist():
                bomb.writestr(name, archive.read(name))
        refuse(path)


fuzz = settings(
    max_examples=int(os.environ.get('MMHATNET_FUZZ', 150)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope='module', params=FORMATS)
def sample(request, tmp_path_factory):
    """A checkpoint to mutate, of each kind of object."""
    path = tmp_path_factory.mktemp('fuzz') / 'file.pth'
    content = dict(
        state_dict=OrderedDict(a=torch.randn(3, 4), b=torch.arange(5)),
        hub=HistoryBuffer([1.0], [1]),
        meta=dict(score=np.float32(1), args=argparse.Namespace(a=1)),
    )
    save(content, path, request.param)
    return path, request.param


def read_or_refuse(path):
    """Read a file, which must be data or a ValueError."""
    try:
        content = read_checkpoint(path)
    except ValueError:
        return
    plain = (*reader.PLAIN, torch.Tensor, np.generic, np.ndarray)
    plain += (HistoryBuffer, Unknown)
    stack = [content]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, list | tuple):
            stack += item
        else:
            assert isinstance(item, plain)
            if isinstance(item, torch.Tensor):
                item.clone()  # all elements exist


@fuzz
@given(data=st.data())
def test_mutated_files(sample, data):
    """Bytes of the program or of the whole file are changed."""
    path, form = sample
    mutated = path.with_name('mutated.pth')
    edits = st.lists(
        st.tuples(st.integers(0, 2**20), st.integers(0, 255)),
        min_size=1,
        max_size=8,
    )

    def mutate(content):
        content = bytearray(content)
        for place, value in data.draw(edits):
            content[place % len(content)] = value
        return bytes(content)

    if form == 'legacy' or data.draw(st.booleans()):
        mutated.write_bytes(mutate(path.read_bytes()))
    else:  # with checksums that fit
        with (
            zipfile.ZipFile(path) as archive,
            zipfile.ZipFile(mutated, 'w') as other,
        ):
            for name in archive.namelist():
                content = archive.read(name)
                if name.endswith('data.pkl'):
                    content = mutate(content)
                other.writestr(name, content)
    before = set(os.listdir(path.parent))
    read_or_refuse(mutated)
    assert set(os.listdir(path.parent)) == before


@fuzz
@given(program=st.binary(max_size=200))
def test_random_programs(program, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / 'random.pth'
    write_pickle(b'\x80\x04' + program, path)
    read_or_refuse(path)
