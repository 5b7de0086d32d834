"""The first command of the README, and what it shares with the set-up."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers import (
    ROOT,
    TOOLS,
    call_tool,
    descendants,
    run_tool,
    start_tool,
    write_program,
)
from PIL import Image

pytestmark = pytest.mark.default_stack
SHORT = (
    '--cfg-options',
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=4',
    'default_hooks.logger.interval=1',
)


@pytest.fixture
def clone(tmp_path):
    """A clone whose environment is the one of this test."""
    shutil.copytree(TOOLS, tmp_path / 'tools')
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'venv').symlink_to(sys.prefix)
    write_program(
        tmp_path / 'tools' / 'setup_env.sh', '[ "$*" != --path ] || echo venv'
    )
    return tmp_path


@pytest.mark.long
def test_whole_quickstart(clone):
    """It ends well, says what is true, and names commands that run."""
    pytest.importorskip('skimage', reason='the demo data need scikit-image')
    tool = clone / 'tools' / 'dataset_converters' / 'make_demo_data.py'
    # Fewer scenes for validation.
    tool.write_text(tool.read_text().replace('default=60', 'default=6'))
    work = clone / 'work_dirs' / 'fpn_hatnet-tiny_2xb4-400_demo'
    for folder in ('first', 'test/29991231_235959'):  # of an earlier call
        (work / folder).mkdir(parents=True)
        (work / folder / 'zebra.json').write_text('{"classes": []}')
    output = run_tool('tools/quickstart.sh', *SHORT, cwd=clone, timeout=600)
    (result,) = (work / 'test').glob('*/*.json')
    printed = re.search(r'never saw: +(\S+) %', output)[1]
    assert float(printed) == round(json.loads(result.read_text())['mIoU'], 1)
    for picture in (
        'fpn_hatnet-tiny_2xb4-400_demo/shape-segmentor.png',
        'fpn_hatnet-tiny_2xb4-400_demo/predictions.png',
    ):
        assert f'work_dirs/{picture}\n' in output
        assert min(Image.open(clone / 'work_dirs' / picture).size) > 500
    folders = re.findall('truth on the left: +(.+)', output)
    assert len(folders) == 2
    for folder in folders:
        assert len(list((clone / folder).glob('*.[jp]*g'))) == 6
    assert re.search(r'iteration \d of 4, loss \d', output)
    assert len(output.splitlines()) < 35
    assert 'mmengine' not in output
    assert 'Iter(train)' in (work / 'quickstart.log').read_text()
    commands = re.findall('^  (python .*)', output, re.M)
    assert len(commands) == 3
    activate = re.search("'(source .*)'", output)[1]
    run_tool('bash', '-c', f'{activate} && {commands[0]}', cwd=clone)
    for command in commands[1:]:
        call_tool(*shlex.split(command)[1:], cwd=clone)
    assert (clone / 'outputs' / 'ADE_val_00000001.json').exists()


def test_failure(clone):
    """The end of the log is shown, and nothing comes after it."""
    tool = clone / 'tools' / 'dataset_converters' / 'make_demo_data.py'
    tool.write_text('print("first\\n" * 99)\nraise OSError("disk full")')
    output = run_tool('tools/quickstart.sh', cwd=clone, code=1)
    assert 'OSError: disk full\n' in output
    assert '_demo/quickstart.log' in output
    assert '2/5' not in output
    assert len(output.splitlines()) < 25


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('to_all', [True, False])
def test_interruption(sent, to_all, clone):
    """Ctrl-C sends a signal to all processes of the terminal, kill to one.

    The tool has a process of its own, and neither is left.
    """
    tool = clone / 'tools' / 'dataset_converters' / 'make_demo_data.py'
    tool.write_text("""
import subprocess, sys, time
more = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])
open('started', 'w').write(str(more.pid))
time.sleep(99)
""")
    started = clone / 'started'
    process = start_tool(
        'tools/quickstart.sh', cwd=clone, start_new_session=True
    )
    wait_for(lambda: started.exists() and started.read_text())
    children = descendants(process.pid)
    assert int(started.read_text()) in children
    (os.killpg if to_all else os.kill)(process.pid, sent)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + sent
    assert 'quickstart.sh: interrupted' in output
    wait_for(lambda: not any(map(is_alive, children)))


def wait_for(condition, seconds=20):
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f'not within {seconds} s')


def is_alive(pid):
    try:
        return 'State:\tZ' not in Path(f'/proc/{pid}/status').read_text()
    except FileNotFoundError:
        return False


def test_progress_without_a_terminal(tmp_path):
    """A silent command that takes seconds is shown to go on."""
    script = """
log=log EVERY=1
at() { echo "after $SECONDS s"; }
. "$0"
watch at sh -c 'echo hidden; sleep 4; exit 3' || echo "status $?"
"""
    output = run_tool('bash', '-c', script, TOOLS / 'watch.sh', cwd=tmp_path)
    first, *others, last = output.splitlines()
    assert re.fullmatch(r'  after [12] s', first)
    assert others
    assert last == 'status 3'
    assert (tmp_path / 'log').read_text() == 'hidden\n'
