"""The set-up, up to its first download."""

import platform
import re
import sys

import pytest
from helpers import ROOT, TOOLS, run_tool, write_program

SETUP = TOOLS / 'setup_env.sh'
pytestmark = pytest.mark.default_stack


class TestArguments:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (['--stack', 'mmlab'], "--stack is 'onedl' or 'openmmlab'"),
            (['--stack'], "--stack is 'onedl' or 'openmmlab'"),
            (['--fast'], "unknown option '--fast'"),
            (['--python'], '--python needs a version or a command'),
            (['--python', '3.99'], "no 'python3.99'"),
        ],
    )
    def test_wrong_argument(self, arguments, message, tmp_path):
        output = run_tool(
            SETUP, *arguments, code=1, MMHATNET_VENV=str(tmp_path / 'venv')
        )
        assert message in output
        assert len(output.splitlines()) == 1

    def test_python_that_is_missing_or_too_old(self, tmp_path):
        old = write_program(
            tmp_path / 'python3',
            '[ "$1" = --version ] && echo Python 3.8.1 && exit\nexit 1',
        )
        venv = tmp_path / 'venv'
        for python, message in (old, '3.8.1 is too old'), ('py0', "no 'py0'"):
            variables = dict(PYTHON=str(python), MMHATNET_VENV=str(venv))
            assert message in run_tool(SETUP, code=1, **variables)
            assert not venv.exists()

    def test_environment_of_another_python(self, tmp_path):
        write_program(tmp_path / 'venv' / 'bin' / 'python', 'echo Python 3.9')
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
    """Function that runs the set-up with a Python that is a script."""

    def run(python, gpu=True, options=(), **env):
        write_program(tmp_path / 'nvidia-smi', f'exit {0 if gpu else 9}')
        write_program(tmp_path / 'venv' / 'bin' / 'python', python)
        return run_tool(
            *(SETUP, *options),
            code=1,
            PATH=f'{tmp_path}:/usr/bin:/bin',
            MMHATNET_VENV=str(tmp_path / 'venv'),
            **env,
        )

    return run


@pytest.mark.parametrize('gpu', [True, False])
def test_download_of_torch(gpu, set_up, tmp_path):
    """Its size comes first; a failure shows what pip says."""
    output = set_up(
        """
case "$*" in
  *--version) exit 0 ;;
  *install*torch==*) echo 'pip: no space left'; exit 9 ;;
esac
exit 1""",
        gpu=gpu,
    )
    has_cuda = (sys.platform, platform.machine()) == ('linux', 'x86_64')
    size = output.find('4 GB of CUDA libraries')
    assert (size >= 0) == (has_cuda and not gpu)
    assert size < output.index('pip: no space left')
    assert f'the log is {tmp_path / "venv" / "setup.log"}' in output


# A Python that has everything, and prints what pip shall do.
COMPLETE = """
case "$*" in
  *_ext*) exit $COMPILED ;;
  *'pip show'*) exit $MMCV ;;
  *'import version'*) echo torch==2.4.1 ;;
  *'pip install'*-r*) for last; do
      case $last in *mm*.txt) sed 's/^/has /' "$last" >&2 ;; esac; done
      echo "$*" >&2; exit $FAILS ;;
  *'pip wheel'*) echo "$* with $MMCV_WITH_OPS" >&2; exit 9 ;;
  *'pip install'*--force*) echo replaced >&2; exit 0 ;;
esac
exit 0"""


@pytest.mark.parametrize('stack', ['onedl', 'openmmlab'])
@pytest.mark.parametrize('mmcv', [True, False])
def test_one_mmcv(stack, mmcv, set_up):
    """mmcv-lite does not come into the folder of another mmcv."""
    output = set_up(
        COMPLETE,
        options=('--stack', stack),
        COMPILED='1',
        MMCV=str(int(not mmcv)),
        FAILS='9',
    )
    wants_lite = stack == 'openmmlab' and not mmcv
    assert ('has mmcv-lite' in output) == wants_lite


def test_compiled_operators(set_up):
    """They are compiled where they are absent, and not without being asked."""
    missing = dict(COMPILED='1', MMCV='1', FAILS='0')
    output = set_up(COMPLETE, options=('--compiled',), **missing)
    assert re.search(
        r'--no-build-isolation -w \S+ onedl-mmcv==\S+ with 1\n', output
    )
    assert 'uninstall' not in output
    assert 'replaced' not in output
