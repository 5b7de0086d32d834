from importlib import import_module

import pytest


@pytest.fixture
def kernels(request, monkeypatch, tmp_path):
    """The kernels that a test file is named after; they import Triton."""
    name = request.path.stem.removeprefix('test_kernels_')
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    return import_module(f'mmhatnet.models.kernels.{name}')
