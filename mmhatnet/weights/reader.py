"""Read the data of a checkpoint file, and nothing else.

A pickle is a program that calls what it names. Here it can name nothing but
the placeholders of this module, which record how they were called. After it
has ended, data take their place: tensors, arrays, numbers, text and plain
containers. torch never sees the file.
"""

import io
import json
import math
import os
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickletools import markobject
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

META = 'mmhatnet'  # the key of the meta information in safetensors files
# torch's names of storages -> the dtype of their elements.
DTYPES = {
    'FloatStorage': torch.float32,
    'DoubleStorage': torch.float64,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
    'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128,
}
# Limits that no checkpoint reaches: levels of containers, objects in all,
# elements of tensors that repeat those of storages, bytes of other data.
MAX_DEPTH, MAX_OBJECTS, MAX_EXPANDED = 100, 10**7, 10**8
MAX_BYTES = 2**30
OTHER_ORDER = 'it was saved on a machine with another byte order'
# The start of torch's format before 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PLAIN = str, bytes, int, float, complex, type(None)
Resolve = Callable[[object], Any]


class Unknown:
    """Stands for an object of a checkpoint that is not data.

    While a pickle runs, it records its arguments and its state. Methods are
    defined for every operation of a pickle on an object; on this class itself
    they lack an argument and fail, so that no file can change the class.
    """

    # A pickle can create an object without calling __init__.
    args: tuple = ()
    state: Any = None
    resolved: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Do nothing."""

    extend = append

    def value(self, resolve: Resolve) -> Any:
        """The data; ``resolve`` gives those of an argument."""
        return Unknown()


class _Bytes(Unknown):
    def value(self, resolve: Resolve) -> bytes:
        if not self.args:
            return b''
        text, codec = self.args
        if codec != 'latin1':
            raise ValueError(f'bytes in {codec}')
        return text.encode('latin1')


class _Tuple(Unknown):
    def value(self, resolve: Resolve) -> tuple:
        return tuple(resolve(self.args[0]))


class _Dtype(Unknown):
    def value(self, resolve: Resolve) -> np.dtype | None:
        if not re.fullmatch(r'[biufcSU]\d+', self.args[0]):
            return None  # objects, dates and structures
        order = self.state[1] if self.state else '='
        return np.dtype(self.args[0]).newbyteorder(order)


class _Scalar(Unknown):
    def value(self, resolve: Resolve) -> object:
        dtype, data = map(resolve, self.args)
        return np.frombuffer(data, dtype, 1)[0].item() if dtype else Unknown()


class _Array(Unknown):
    def value(self, resolve: Resolve) -> np.ndarray | Unknown:
        _, shape, dtype, fortran, data = map(resolve, self.state)
        if not dtype:
            return Unknown()
        array = np.empty(0, dtype)
        if data:
            array = np.frombuffer(bytearray(data), dtype)
        return array.reshape(shape, order='F' if fortran else 'C')


class _HistoryBuffer(Unknown):
    def value(self, resolve: Resolve) -> HistoryBuffer:
        names = '_log_history', '_count_history', 'max_length'
        return HistoryBuffer(*(resolve(self.state[name]) for name in names))


class _Storage(Unknown):
    """Elements, which are the state, or ``args[0]`` reads them."""

    def value(self, resolve: Resolve) -> Tensor | None:
        return self.args[0]() if self.args else self.state


class _Tensor(Unknown):
    def value(self, resolve: Resolve) -> Tensor:
        args = map(resolve, self.args)
        storage, offset, size, stride, _, _, *metadata = args
        # Products with text would repeat it.
        if any(type(x) is not int for x in (offset, *size, *stride)):
            raise ValueError('a tensor with a size that is not an integer')
        if math.prod(size) > max(storage.numel(), MAX_EXPANDED):
            raise ValueError(f'a tensor of {size} is much too large')
        # The check of as_strided overflows in torch 2.1.
        steps = [(n - 1) * step for n, step in zip(size, stride, strict=True)]
        last = offset + (sum(steps) if 0 not in size else -1)
        if min(offset, *size, *stride, 0) < 0 or last >= storage.numel():
            raise ValueError(f'a tensor of {size} is outside its storage')
        for name in dict(metadata[0] if metadata else {}):
            if name not in ('conj', 'neg'):
                raise ValueError(f'a tensor with {name!s:.60}')
            storage = storage.conj() if name == 'conj' else -storage
        return storage.as_strided(size, stride, offset)


class _Parameter(Unknown):
    def value(self, resolve: Resolve) -> object:
        return resolve(self.args[0])


class _StorageType:
    """A name of a storage, which a file uses as a name only."""

    def __init__(self, name: str) -> None:
        self.name = name


KNOWN = {
    ('_codecs', 'encode'): _Bytes,
    ('__builtin__', 'bytes'): _Bytes,
    ('builtins', 'bytes'): _Bytes,
    ('torch', 'Size'): _Tuple,
    ('torch._utils', '_rebuild_tensor_v2'): _Tensor,
    ('torch._utils', '_rebuild_parameter'): _Parameter,
    ('torch._utils', '_rebuild_parameter_with_state'): _Parameter,
    ('numpy', 'dtype'): _Dtype,
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): _HistoryBuffer,
}
for package in ('numpy.core', 'numpy._core'):
    KNOWN[f'{package}.multiarray', 'scalar'] = _Scalar
    KNOWN[f'{package}.multiarray', '_reconstruct'] = _Array


class _Unpickler(pickle.Unpickler):
    """Runs a pickle that can name placeholders only.

    ``storage`` gets the storage of the arguments of a persistent id: type,
    key, device and number of elements.
    """

    def __init__(self, file: BinaryIO, storage: Callable) -> None:
        super().__init__(file, encoding='utf-8')
        self.storage = storage

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ('collections', 'OrderedDict'):
            return OrderedDict  # written in C, so that no file can change it
        if module == 'torch' and name in DTYPES:
            return _StorageType(name)
        return KNOWN.get((module, name), Unknown)

    def persistent_load(self, pid: tuple) -> Unknown:
        if pid[0] == 'module':
            return pid[1]
        if pid[0] != 'storage' or not isinstance(pid[1], _StorageType):
            return Unknown()
        if any(pid[5:]):
            raise ValueError('it has views of storages, a very old format')
        return self.storage(DTYPES[pid[1].name], *pid[2:])


def _is_safetensors(path: Path) -> bool:
    """Whether a file starts with the length of a header and this as JSON."""
    with open(path, 'rb') as file:
        return file.read(9)[5:] == b'\0\0\0{'


def read_file(path: Path, device: str | torch.device = 'cpu') -> object:
    """Read the data of a checkpoint file.

    The file is torch's, in its zip format with verified checksums or in the
    format before 1.6, or a file of safetensors. Its name does not matter.

    Args:
        path (Path): The file.
        device (str | torch.device): The device of the tensors. Defaults to
            'cpu'.

    Returns:
        object: The data. :class:`Unknown` stands for objects of other classes.

    Raises:
        Exception: Any, if the file is damaged or has another format.
    """
    if _is_safetensors(path):
        with safe_open(path, 'pt') as file:
            meta = (file.metadata() or {}).get(META)
        weights = load_file(path, device)
        if meta is None:
            return weights
        meta = json.loads(meta)
        if not isinstance(meta, dict):
            raise ValueError('its meta information is not a dict')
        return dict(meta=_with_tuples(meta), state_dict=weights)
    with open(path, 'rb') as file:
        read = _read_zip if file.peek(2)[:2] == b'PK' else _read_legacy
        return _resolve(read(file), device)


def _with_tuples(value: object) -> object:
    """Make tuples of the innermost lists, as mm needs classes and colours."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    if any(isinstance(each, dict | list) for each in value):
        return [_with_tuples(each) for each in value]
    return tuple(value)


def _read_zip(file: BinaryIO) -> object:
    if not zipfile.is_zipfile(file):  # its table is at the end
        raise ValueError('it ends too early')
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    root = names[0].partition('/')[0]
    if f'{root}/constants.pkl' in names:
        raise ValueError('it is a TorchScript archive, which holds programs')
    order = f'{root}/byteorder'
    if order in names and archive.read(order) != b'little':
        raise ValueError(OTHER_ORDER)

    def read(name: str) -> bytes:
        info = archive.getinfo(f'{root}/{name}')
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f'{info.filename} is compressed')
        return archive.read(info)  # verifies the checksum

    size = os.fstat(file.fileno()).st_size
    if sum(info.file_size for info in archive.infolist()) > size:
        raise ValueError('parts of it overlap')
    storages: dict[str, tuple[torch.dtype, _Storage]] = {}

    def storage(dtype: torch.dtype, key: str, *_: Any) -> _Storage:
        new = _Storage(lambda: _elements(read(f'data/{key}'), dtype))
        known, part = storages.setdefault(key, (dtype, new))
        if known != dtype:
            raise ValueError('a storage has two types')
        return part

    return _unpickle(io.BytesIO(read('data.pkl')), storage)


def _read_legacy(file: BinaryIO) -> object:
    found: dict[str, tuple[torch.dtype, _Storage]] = {}

    def storage(dtype: torch.dtype, key: str, *_: Any) -> _Storage:
        return found.setdefault(key, (dtype, _Storage()))[1]

    load: Callable[[], Any] = partial(_unpickle, file, storage)
    if load() != LEGACY_MAGIC:
        raise ValueError('it has none of the formats of checkpoints')
    load()  # the version of the protocol
    if not load()['little_endian']:
        raise ValueError(OTHER_ORDER)
    content = load()
    for key in load():
        length = int.from_bytes(file.read(8), 'little')
        if key not in found:
            raise ValueError('it has tensors of an unknown type')
        dtype, part = found[key]
        length *= torch.empty(0, dtype=dtype).element_size()
        data = file.read(length)
        if len(data) < length:
            raise ValueError('it ends too early')
        part.state = _elements(data, dtype)
    return content


def _check_opcodes(file: BinaryIO) -> None:
    """Refuse a pickle that would exhaust the memory or the C stack.

    Python recurses into tuples to hash them. So this follows the levels of
    tuples on the stack and in the memo of the pickle.
    """
    stack: list[int | None] = []  # None is a mark
    memo: dict[int, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name, before = opcode.name, opcode.stack_before
        index: Any = len(memo) if name == 'MEMOIZE' else argument
        # The memo is an array, as large as its last index.
        if name.endswith('PUT') and index > count:
            raise ValueError('it asks for too much memory')
        if name.endswith('PUT') or name == 'MEMOIZE':
            memo[index] = stack[-1] or 0
            continue
        if name.endswith('GET'):
            stack.append(memo[index])
            continue
        taken = []
        if markobject in before:
            while (level := stack.pop()) is not None:
                taken.append(level)
            before = before[: before.index(markobject)]
        taken += [stack.pop() or 0 for _ in before]
        level = 0
        if name == 'DUP':
            level = taken[0]
        elif name.startswith('TUPLE') or name == 'FROZENSET':
            level = 1 + max(taken, default=0)
        if level > MAX_DEPTH:
            raise ValueError('it is nested too deeply')
        mark = markobject in opcode.stack_after
        stack += [None if mark else level] * len(opcode.stack_after)


def _unpickle(file: BinaryIO, storage: Callable) -> object:
    start = file.tell()
    _check_opcodes(file)
    size = file.tell() - start  # other data may follow
    file.seek(start)
    return _Unpickler(io.BytesIO(file.read(size)), storage).load()


def _elements(data: bytes, dtype: torch.dtype) -> Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)


def _resolve(content: object, device: str | torch.device) -> object:
    """Replace placeholders by data, with tensors on a device."""
    count = made = elements = 0
    storages: dict[int, int] = {}  # the elements of each

    def limit(value: object) -> None:
        """Refuse a small file whose parts are used again and again."""
        nonlocal made, elements
        if isinstance(value, bytes | np.ndarray):
            made += len(value) if isinstance(value, bytes) else value.nbytes
        elif isinstance(value, Tensor):
            held = value.untyped_storage()
            storages[held.data_ptr()] = held.nbytes() // value.element_size()
            elements += value.numel()
        allowed = sum(storages.values()) if elements > MAX_EXPANDED else 0
        if made > MAX_BYTES or elements > allowed + MAX_EXPANDED:
            raise ValueError('it repeats its data too often')

    def resolve(item: object, depth: int = 0) -> object:
        nonlocal count
        count += 1
        if depth > MAX_DEPTH or count > MAX_OBJECTS:
            raise ValueError('it is nested too deeply or endlessly')

        def inner(part: object) -> object:
            return resolve(part, depth + 1)

        if isinstance(item, dict):
            return {
                key: inner(value)
                for key, value in dict.items(item)
                if isinstance(key, PLAIN)
            }
        if isinstance(item, list | tuple):
            return type(item)(map(inner, item))
        if isinstance(item, Unknown):
            if item.resolved is None:
                value = type(item).value(item, inner)
                if isinstance(item, _Tensor) or not isinstance(value, Tensor):
                    limit(value)
                if isinstance(item, _Tensor):
                    value = value.to(device)
                item.resolved = value
            return item.resolved
        return item if isinstance(item, PLAIN) else Unknown()

    return resolve(content)
