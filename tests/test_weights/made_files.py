"""Checkpoints that tests write."""

import pickle
import zipfile

import torch

from mmhatnet.weights.reader import LEGACY_MAGIC

FORMATS = dict(zip=True, legacy=False)


def save(content, path, form='zip'):
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[form])


def write_pickle(program, path, form='zip'):
    """Write a checkpoint with another program."""
    if form == 'legacy':
        parts = [pickle.dumps(x, 2) for x in (LEGACY_MAGIC, 1001)]
        parts += [pickle.dumps({'little_endian': True}, 2), program]
        path.write_bytes(b''.join([*parts, pickle.dumps([], 2)]))
        return
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', program)
        archive.writestr('archive/version', '3')
