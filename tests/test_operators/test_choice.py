"""Which module has the operators, and what programs see of it."""

import sys

import pytest
import torch
from comparing import run
from helpers import DEMOS, run_tool

from mmhatnet import operators
from mmhatnet.operators import ext


@pytest.mark.parametrize(
    ('choice', 'place'), [('', -1), ('torchvision', 0), ('mmcv', None)]
)
def test_choice(choice, place, monkeypatch):
    monkeypatch.setenv(operators.VARIABLE, choice)
    others = [f for f in sys.meta_path if f is not operators.Finder]
    monkeypatch.setattr(sys, 'meta_path', [*others])
    for name in (operators.NAME, *operators.USERS):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for _ in range(2):
        operators.install_operators()
    if place is not None:
        assert sys.meta_path[place] is operators.Finder
    assert len(sys.meta_path) == len(others) + (place is not None)


def test_choice_that_is_wrong_or_late(monkeypatch):
    monkeypatch.setattr(sys, 'meta_path', [])
    monkeypatch.setenv(operators.VARIABLE, 'tensorflow')
    message = '^MMHATNET_OPERATORS=tensorflow is neither torchvision nor mmcv$'
    with pytest.raises(ValueError, match=message):
        operators.install_operators()
    monkeypatch.setenv(operators.VARIABLE, 'torchvision')
    monkeypatch.setitem(sys.modules, 'mmdet.models', sys)
    with pytest.raises(ImportError, match='comes too late, after mm'):
        operators.install_operators()
    monkeypatch.setenv(operators.VARIABLE, '')
    monkeypatch.delitem(sys.modules, operators.NAME, raising=False)
    monkeypatch.setattr(operators, 'find_spec', lambda name: None)
    with pytest.warns(UserWarning, match='^mmdet.* has no operators of mmcv'):
        operators.install_operators()


def test_absent_operator_says_what_it_needs():
    with pytest.raises(ImportError, match='^nms_rotated needs .*setup_env.sh'):
        ext.nms_rotated(torch.zeros(1, 5), torch.zeros(1))
    regions = torch.zeros(1, 3, 8, 8), torch.zeros(1, 5), (2, 2), 1.0, 0, 'max'
    with pytest.raises(ImportError, match="pool_mode='max' needs mmcv's"):
        run('roi_align', ext, *regions)
    assert not hasattr(ext, '__path__')


WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    def find_spec(name, *args):
        if name != 'mmcv._ext':
            return PathFinder.find_spec(name, *args)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden

import mmhatnet
from mmhatnet.operators import describe_operators
assert not {{'mmcv.ops', 'mmcv._ext', 'torchvision'}} & {{*sys.modules}}
print(describe_operators())
try:
    mmhatnet.get_model({DEMOS['Object Detection']!r})
    print('loaded' if 'mmcv._ext' in sys.modules else '')
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ('choice', 'operators', 'result'),
    [
        ('', 'torchvision', 'loaded'),
        pytest.param(
            *('mmcv', 'none', 'run tools/setup_env.sh'),
            marks=pytest.mark.default_stack,
        ),
    ],
)
def test_an_mmcv_without_operators(choice, operators, result):
    """Ours are found without being asked for, and can be refused."""
    lines = run_tool('-c', WITHOUT, MMHATNET_OPERATORS=choice).splitlines()
    assert operators in lines
    assert result in lines[-1]


def test_program_that_imports_mmdet_first(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text("""\
import sys
from mmcv.ops import get_compiler_version
if __name__ == '__main__':
    print(sys.argv[1:], get_compiler_version())
""")
    command = '-m', 'mmhatnet.operators', program, '--a'
    out = run_tool(*command, MMHATNET_OPERATORS='torchvision')
    assert "['--a'] none (operators of torchvision" in out
