"""The set-up, up to its first download; a GPU is simulated."""

import os
import platform
import re
import sys
from importlib.metadata import version

import pytest
import torch
from helpers import ROOT, TOOLS, run_tool

SETUP = TOOLS / 'setup_env.sh'
pytestmark = pytest.mark.default_stack
CUDA = dict(onedl='12.8', openmmlab='12.1')
INDEXES = dict(
    onedl='cu128-torch2100/simple/onedl-mmcv',
    openmmlab='mmcv/dist/cu121/torch2.1.0',
)
WHEELS = dict(
    onedl='onedl_mmcv-2.3.6-{0}-{0}-manylinux_2_28_{1}.whl',
    openmmlab='mmcv-2.1.0-{0}-{0}-manylinux1_{1}.whl',
)
HERE = 'cp{}{}'.format(*sys.version_info[:2])


class TestArguments:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (['--stack', 'mmlab'], "--stack is 'onedl' or 'openmmlab'"),
            (['--stack'], "--stack is 'onedl' or 'openmmlab'"),
            (['--fast'], "unknown option '--fast'"),
            (['--python'], '--python needs a version or a command'),
            (['--python', '3.99'], "no 'python3.99'"),
            (
                ['--lite', '--stack', 'openmmlab'],
                '--lite is for --stack onedl',
            ),
        ],
    )
    def test_wrong_argument(self, arguments, message, tmp_path):
        output = run_tool(
            SETUP, *arguments, code=1, MMHATNET_VENV=str(tmp_path / 'venv')
        )
        assert message in output
        assert len(output.splitlines()) == 1

    def test_python_that_is_missing_or_too_old(self, tmp_path):
        old = tmp_path / 'python3'
        old.write_text(
            '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1 && exit\n'
            'exit 1\n'
        )
        old.chmod(0o755)
        for python, message in (
            (old, '3.8.1 is too old'),
            ('py0', "no 'py0'"),
        ):
            output = run_tool(
                SETUP,
                code=1,
                PYTHON=str(python),
                MMHATNET_VENV=str(tmp_path / 'venv'),
            )
            assert message in output
            assert not (tmp_path / 'venv').exists()

    def test_environment_of_another_python(self, tmp_path):
        python = tmp_path / 'venv' / 'bin' / 'python'
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho Python 3.9\n')
        python.chmod(0o755)
        output = run_tool(
            *(SETUP, '--python', sys.executable),
            code=1,
            MMHATNET_VENV=str(tmp_path / 'venv'),
        )
        assert f'has Python 3.9, not {sys.executable}: remove it' in output

    def test_where(self, tmp_path, monkeypatch):
        monkeypatch.delenv('MMHATNET_VENV', raising=False)
        for arguments, name in (
            ([], '.venv'),
            (['--stack', 'openmmlab'], '.venv-openmmlab'),
        ):
            output = run_tool(SETUP, '--path', *arguments)
            assert output.strip() == str(ROOT / name)
        for path in (str(tmp_path), 'relative'):
            output = run_tool(
                SETUP, '--path', cwd=tmp_path, MMHATNET_VENV=path
            )
            assert output.strip() == str(tmp_path / path)


@pytest.fixture
def set_up(tmp_path):
    """Function that runs the set-up until it would make the environment."""

    def run(
        *tags,
        stack='onedl',
        machine=platform.machine(),  # noqa: B008
        options=('--isolated',),
        gpu=True,
        nvcc='',
        code=1,
        **env,
    ):
        if stack == 'openmmlab' and sys.version_info >= (3, 12):
            pytest.skip('torch 2.1 needs an older Python')
        index = tmp_path / 'index' / INDEXES[stack]
        index.mkdir(parents=True, exist_ok=True)
        names = (WHEELS[stack].format(tag, machine) for tag in tags)
        links = '\n'.join(f'<a href="{name}">' for name in names)
        (index / 'index.html').write_text(links)
        release = f'echo "Cuda compilation tools, release {nvcc}, V1"'
        scripts = {
            'nvidia-smi': f'exit {0 if gpu else 9}',
            'nvcc': release if nvcc else 'exit 127',
            'python': '[ "$2" != venv ] || { echo made; exit 7; }\n'
            f'exec {sys.executable} "$@"',
        }
        for name, lines in scripts.items():
            (tmp_path / name).write_text(f'#!/bin/sh\n{lines}\n')
            (tmp_path / name).chmod(0o755)
        environment = dict(
            PATH=f'{tmp_path}:/usr/bin:/bin',
            PYTHON=str(tmp_path / 'python'),
            MMHATNET_VENV=str(tmp_path / 'venv'),
            MMCV_BASE_URL=(tmp_path / 'index').as_uri(),
            XDG_CACHE_HOME=str(tmp_path / 'cache'),
            PIP_CONFIG_FILE=os.devnull,
            PIP_FIND_LINKS='',
            PIP_INDEX_URL='',
            PIP_EXTRA_INDEX_URL='',
            CUDA_VISIBLE_DEVICES='0',
        )
        return run_tool(
            *(SETUP, '--stack', stack, *options),
            code=code,
            **(environment | env),
        )

    return run


@pytest.mark.parametrize('stack', CUDA)
class TestCudaOperators:
    def test_prebuilt(self, set_up, stack):
        output = set_up(HERE, 'cp399', stack=stack, code=7)
        assert f'CUDA {CUDA[stack]}\n  they are prebuilt' in output
        assert output.endswith('made\n')

    def test_prebuilt_for_another_python(self, set_up, stack):
        output = set_up('cp36', 'cp399', stack=stack)
        assert 'not prebuilt, only for Python 3.6, 3.99 (file:' in output
        assert 'use --python 3.99, install the CUDA' in output
        assert ('--lite' in output) == (stack == 'onedl')
        assert 'made' not in output

    def test_built_by_nvcc(self, set_up, stack):
        output = set_up(stack=stack, nvcc=CUDA[stack], code=7)
        assert f'nvcc {CUDA[stack]} can build them' in output

    def test_nvcc_of_another_cuda(self, set_up, stack):
        assert 'built (nvcc: 11.8)' in set_up(stack=stack, nvcc='11.8')

    def test_wheels_of_the_user(self, set_up, stack, tmp_path):
        links = dict(PIP_FIND_LINKS=str(tmp_path))
        assert 'may have them' in set_up(stack=stack, code=7, **links)


def test_index_that_cannot_be_reached(set_up):
    index = dict(MMCV_BASE_URL='http://127.0.0.1:9')
    output = set_up(**index)
    assert 'http://127.0.0.1:9/cu128' in output
    assert 'cannot be reached' in output
    assert 'can be neither downloaded nor built' in output
    assert 'can build them' in set_up(nvcc='12.8', code=7, **index)


def test_index_without_this_combination(set_up, server):
    """A server answers 404, which is not the same as no answer."""
    assert 'not prebuilt (http' in set_up(MMCV_BASE_URL=server.url)


@pytest.mark.parametrize('force', ['', '1'])
def test_without_a_gpu(set_up, force):
    """An image for GPUs can be made where there is none."""
    output = set_up(HERE, gpu=False, code=7, FORCE_CUDA=force)
    assert ('they are prebuilt' in output) == bool(force)


def test_lite_needs_no_operators(set_up):
    options = '--isolated', '--lite'
    assert 'looking' not in set_up(options=options, code=7)


def test_wheel_of_another_machine(set_up):
    assert 'not prebuilt (file' in set_up(HERE, machine='sparc')


@pytest.mark.parametrize('devices', ['', '-1'])
def test_hidden_gpu(devices, set_up):
    output = set_up(code=7, CUDA_VISIBLE_DEVICES=devices)
    assert 'looking' not in output


@pytest.mark.parametrize(
    ('works', 'cuda', 'force', 'message'),
    [
        (True, '12.1', '', None),
        (False, '12.1', '', 'torch 2.4.1, CUDA 12.1'),
        (False, 'None', '', None),
        (False, 'None', '1', 'FORCE_CUDA=1 needs a torch with CUDA'),
    ],
)
def test_environment_that_exists(
    works, cuda, force, message, set_up, tmp_path
):
    """Its torch counts, and its mmcv is kept if it works."""
    python = tmp_path / 'venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(f"""#!/bin/sh
case "$#" in
  1) exit {0 if works else 1} ;; # an operator of mmcv
  2 | 3) [ "$1" = - ] || exit 1 ; exec {sys.executable} "$@" ;;
  4) echo 3.11 2.4.1 {cuda} ;;
esac
""")
    python.chmod(0o755)
    index = tmp_path / 'index/cu121-torch240/simple/onedl-mmcv'
    index.mkdir(parents=True)
    (index / 'index.html').write_text(WHEELS['onedl'].format('cp99', 'all'))
    output = set_up(options=(), FORCE_CUDA=force)
    assert (message or 'there is no pip in') in output
    assert ('looking' in output) == bool(message and not force)


@pytest.mark.parametrize('gpu', [True, False])
def test_download_of_torch(gpu, set_up, tmp_path):
    """Its size comes first; a failure shows what pip says."""
    python = tmp_path / 'venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text("""#!/bin/sh
case "$*" in
  *--version) exit 0 ;;
  *install*torch==*) echo 'pip: no space left'; exit 9 ;;
esac
exit 1
""")
    python.chmod(0o755)
    output = set_up(gpu=gpu, options=('--lite',))
    has_cuda = (sys.platform, platform.machine()) == ('linux', 'x86_64')
    size = output.find('4 GB of CUDA libraries')
    assert (size >= 0) == (has_cuda and not gpu)
    assert size < output.index('pip: no space left')
    assert f'the log is {tmp_path / "venv" / "setup.log"}' in output


def test_cuda_of_the_pinned_torch():
    stated = re.search(r'onedl\).*cuda_of_torch=([\d.]+)', SETUP.read_text())
    pinned = (ROOT / 'requirements/tested_onedl.txt').read_text()
    if f'torch=={version("torch").partition("+")[0]}\n' not in pinned:
        pytest.skip('another torch is installed')
    if torch.version.cuda is None:
        pytest.skip('torch has no CUDA')
    assert stated[1] == torch.version.cuda
