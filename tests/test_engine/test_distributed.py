"""Training and testing in several processes, on the CPU."""

import os
import signal
import time
from pathlib import Path

import mmengine
import pytest
import torch
from helpers import (
    ITERS,
    TOOLS,
    call_tool,
    free_port,
    recorded,
    run_tool,
    start_tool,
)


def losses(folder, ranks=1):
    """Mean loss over the ranks, by iteration."""
    values = {}
    for rank in range(ranks):
        for line in recorded(folder, rank):
            if 'loss' in line:
                values.setdefault(line['iter'], []).append(line['loss'])
    assert all(len(v) == ranks for v in values.values())
    return {i: sum(v) / ranks for i, v in values.items()}


@pytest.mark.slow
class TestTraining:
    """Two processes with half the batch do the work of one."""

    def check(self, single_run, folder):
        """Compare losses and weights with the run in one process."""
        expected = losses(single_run)
        assert list(expected) == list(range(ITERS))
        assert losses(folder, 2) == pytest.approx(expected, rel=1e-4)
        weights, reference = (
            torch.load(path / f'iter_{ITERS}.pth', weights_only=False)
            for path in (folder, single_run)
        )
        assert weights['state_dict'].keys() == reference['state_dict'].keys()
        for key, value in reference['state_dict'].items():
            torch.testing.assert_close(
                weights['state_dict'][key], value, atol=1e-4, rtol=1e-3
            )

    def test_two_processes(self, demo_folder, small_config, single_run):
        output = run_tool(
            *(TOOLS / 'dist_train.sh', small_config, 2, '--work-dir', 'two'),
            cwd=demo_folder,
            RECORD='two',
        )
        self.check(single_run, demo_folder / 'two')
        assert 'mIoU' in output
        assert 'eta' in output

    @pytest.mark.default_stack
    def test_two_nodes(self, demo_folder, small_config, single_run):
        port = free_port()
        nodes = [
            start_tool(
                *(TOOLS / 'dist_train.sh', small_config, 1),
                *('--work-dir', 'nodes'),
                cwd=demo_folder,
                RECORD='nodes',
                NNODES='2',
                NODE_RANK=rank,
                PORT=port,
            )
            for rank in '01'
        ]
        for node in nodes:
            output = node.communicate(timeout=300)[0]
            assert node.returncode == 0, output
        self.check(single_run, demo_folder / 'nodes')

    @pytest.mark.default_stack
    def test_slurm(self, demo_folder, small_config, single_run):
        """A stand-in for srun starts the processes here."""
        folder = demo_folder / 'bin'
        folder.mkdir()
        (folder / 'srun').write_text("""#!/usr/bin/env bash
while [ "$1" != "$PYTHON" ]; do
  [ "$1" != --ntasks ] || export SLURM_NTASKS=$2
  shift
done
export SLURM_NODELIST=here
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || exit; done
""")
        (folder / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\n')
        for file in folder.iterdir():
            file.chmod(0o755)
        run_tool(
            *(TOOLS / 'slurm_train.sh', 'partition', 'name', small_config),
            *('--work-dir', 'slurm'),
            cwd=demo_folder,
            RECORD='slurm',
            PATH=f'{folder}:{os.environ["PATH"]}',
            MASTER_PORT=free_port(),
            GPUS='2',
            GPUS_PER_NODE='0',
        )
        self.check(single_run, demo_folder / 'slurm')


@pytest.mark.slow
def test_interrupt(demo_folder, small_config):
    """Ctrl-C, which all processes get, ends them with one line."""
    process = start_tool(
        *(TOOLS / 'dist_train.sh', small_config, 2),
        *('--work-dir', 'interrupted'),
        *('--cfg-options', 'train_cfg.max_iters=100000'),
        cwd=demo_folder,
        RECORD='interrupted',
    )
    pids = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    record = demo_folder / 'interrupted' / 'rank1.jsonl'
    while not (record.exists() and record.read_text().count('loss') > 3):
        assert process.poll() is None
        time.sleep(0.1)
    workers = list(map(int, pids.read_text().split()))
    assert len(workers) == 2
    for pid in (process.pid, *workers):
        os.kill(pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert 'Traceback' not in output
    assert output.splitlines()[-1] == 'train.py: interrupted'
    assert 'Grad strides' not in output


@pytest.mark.slow
def test_evaluation(demo_folder, single_run, small_config):
    """Metric, predictions and pictures of one process and of two."""
    checkpoint = single_run / f'iter_{ITERS}.pth'
    one, two = (
        run(
            *(*command, '--work-dir', name, '--show-dir', f'shown_{name}'),
            *('--out', f'{name}.pkl'),
            cwd=demo_folder,
        )
        for name, run, command in (
            ('one', call_tool, (TOOLS / 'test.py', small_config, checkpoint)),
            (
                'both',
                run_tool,
                (TOOLS / 'dist_test.sh', small_config, checkpoint, 2),
            ),
        )
    )
    score = 'aAcc: '
    assert one.split(score)[1].split()[0] == two.split(score)[1].split()[0]
    assert len(mmengine.load(demo_folder / 'both.pkl')) == 2
    assert len(list((demo_folder / 'shown_one').rglob('*.png'))) == 2
    # mmengine draws in the first process only.
    assert len(list((demo_folder / 'shown_both').rglob('*.png'))) == 1


@pytest.mark.default_stack
@pytest.mark.parametrize(
    ('gpu', 'environment', 'expected'),
    [
        (False, {}, '268435456,33554432'),
        (False, dict(MALLOC_TRIM_THRESHOLD_='1'), '1,'),
        (False, dict(GLIBC_TUNABLES='glibc.malloc.perturb=1'), ','),
        (True, {}, ','),
    ],
)
def test_allocator(gpu, environment, expected, tmp_path):
    """A stand-in for Python prints what it would run with."""
    files = dict(
        python='echo $MALLOC_TRIM_THRESHOLD_,$MALLOC_MMAP_THRESHOLD_',
        **{'nvidia-smi': 'true' if gpu else 'false'},
    )
    for name, command in files.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n{command}\n')
        (tmp_path / name).chmod(0o755)
    environment = {
        'PYTHON': str(tmp_path / 'python'),
        'PATH': f'{tmp_path}:{os.environ["PATH"]}',
        **environment,
    }
    output = run_tool(
        *(TOOLS / 'dist_train.sh', 'config.py', 2), **environment
    )
    assert output.strip() == expected
