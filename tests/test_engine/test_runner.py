"""Training and testing in one process, on the CPU."""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import mmengine
import pytest
import torch
from helpers import (
    DATA,
    DEMOS,
    ITERS,
    ROOT,
    TOOLS,
    Payload,
    call_tool,
    forget,
    free_port,
    recorded,
    run_tool,
)
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import CheckpointLoader
from torch import nn

from mmhatnet.engine import optim
from mmhatnet.engine import runner as engine
from mmhatnet.utils import device

# A run of seconds, on scenes of 64x64.
EPOCH = ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
SHORT = dict.fromkeys(DEMOS, EPOCH)
SHORT['Image Classification'] = (
    *EPOCH,
    'train_dataloader.dataset.indices=16',
    'val_dataloader.dataset.indices=4',
    'test_dataloader.dataset.indices=4',
)
SHORT['Instance Segmentation'] = (
    *EPOCH,
    'model.train_cfg.rcnn.sampler.num=64',
    'model.test_cfg.rpn.max_per_img=100',
)
SHORT['Semantic Segmentation'] = (
    'train_cfg.max_iters=1',
    "model.data_preprocessor.size='(64,64)'",
    "train_dataloader.dataset.pipeline.2.crop_size='(64,64)'",
)
# Workers of a data loader stop slowly in a process as large as that of the
# tests.
NO_WORKERS = [
    f'{split}_dataloader.{setting}'
    for split in ('train', 'val', 'test')
    for setting in ('num_workers=0', 'persistent_workers=False')
]


@pytest.mark.parametrize(
    'task',
    [
        pytest.param(
            task, marks=[pytest.mark.slow] if 'Instance' in task else []
        )
        for task in DEMOS
    ],
)
def test_demo(task, demo_folder, tmp_path):
    """Every demo is trained, evaluated and drawn by our tools."""
    config = ROOT / 'configs' / 'demo' / f'{DEMOS[task]}.py'
    options = ['--cfg-options', 'default_hooks.checkpoint.interval=1']
    options += [*SHORT[task], *NO_WORKERS, 'default_hooks.logger.interval=1']
    call_tool(
        *(TOOLS / 'train.py', config, '--work-dir', tmp_path, *options),
        cwd=demo_folder,
    )
    (checkpoint,) = [
        path
        for path in tmp_path.glob('*_1.pth')
        if not path.name.startswith('best')
    ]
    output = call_tool(
        *(TOOLS / 'test.py', config, checkpoint, '--work-dir', tmp_path),
        *('--show-dir', tmp_path / 'shown', '--out', tmp_path / 'out.pkl'),
        *options,
        cwd=demo_folder,
    )
    # A detector finds nothing after one epoch, and then there is no metric.
    metric = {
        'Semantic Segmentation': 'mIoU',
        'Image Classification': 'accuracy/top1',
    }.get(task, 'Evaluating bbox')
    assert metric in output
    images = 4 if task == 'Image Classification' else 2
    assert len(mmengine.load(tmp_path / 'out.pkl')) == images
    assert len(list((tmp_path / 'shown').rglob('*.*g'))) == images


def test_without_test_data(demo_folder, small_config):
    output = call_tool(
        *(TOOLS / 'test.py', small_config, 'x.pth', '--out', 'out.pkl'),
        *('--cfg-options', 'test_dataloader=None', 'test_evaluator=None'),
        'test_cfg=None',
        cwd=demo_folder,
        code=1,
    )
    expected = 'test.py: error: the config has no test_dataloader'
    assert output.splitlines()[-1].startswith(expected)


@pytest.mark.parametrize('key', ['train_cfg', 'optim_wrapper'])
def test_missing_settings(key, cfg):
    cfg[key] = None
    with pytest.raises(ValueError, match=f'the config has no {key}, which'):
        engine.build_runner(cfg, ('train', 'val'))


def test_second_training(cfg, tmp_path, monkeypatch):
    """It is refused before it makes a folder for its log."""

    def refuse(_):
        raise ValueError('in use')

    monkeypatch.setattr(engine, 'lock_work_dir', refuse)
    monkeypatch.setattr(engine, 'check_data', lambda *_: [])
    with pytest.raises(ValueError, match='in use'):
        engine.build_runner(cfg, ('train', 'val'))
    assert not os.listdir(tmp_path)


def test_flexible_runner(demo_folder, small_config, tmp_path):
    """Training and testing with mmengine's other runner."""
    options = (
        *('--work-dir', tmp_path, '--cfg-options'),
        *('runner_type=FlexibleRunner', 'train_cfg.max_iters=1'),
    )
    call_tool(TOOLS / 'train.py', small_config, *options, cwd=demo_folder)
    path = tmp_path / 'iter_1.pth'
    command = TOOLS / 'test.py', small_config, path, *options
    output = call_tool(*command, cwd=demo_folder)
    assert re.search(r'Iter\(test\) \[2/2\].* mIoU: [0-9.]+', output)
    # Hooks see what is loaded.
    content = engine.read_checkpoint(path)
    del content['state_dict']['decode_head.conv_seg.bias']
    torch.save(content, path)
    output = call_tool(*command, cwd=demo_folder, code=1)
    assert 'does not fit the model' in output.splitlines()[-1]


@pytest.mark.parametrize('name', ['segmentor', 'detector'])
def test_pure_python_config(name, demo_folder, tmp_path):
    """Its types are classes, in all tools."""
    config = DATA / 'pure_python' / f'{name}.py'
    command = TOOLS / 'train.py', config, '--work-dir', tmp_path
    output = call_tool(*command, cwd=demo_folder)
    assert 'training in float32' in output  # --amp is for a GPU
    weights = tmp_path / 'epoch_1.pth'
    assert engine.read_checkpoint(weights)['meta']['epoch'] == 1
    # mmengine dumps the config.
    for each in (config, tmp_path / config.name):
        output = call_tool(
            *(TOOLS / 'test.py', each, weights, '--work-dir', tmp_path),
            cwd=demo_folder,
        )
        assert re.search(r'Epoch\(test\) \[2/2\].*(mIoU|bbox_mAP): ', output)
    photo = demo_folder / 'data/demo/coco/val2017/000000000001.jpg'
    out = tmp_path / 'out'
    call_tool(TOOLS / 'infer.py', config, weights, photo, '--out-dir', out)
    result = mmengine.load(out / f'{photo.stem}.json')
    assert ('classes' if name == 'segmentor' else 'objects') in result
    tool = TOOLS / 'analysis_tools' / 'get_flops.py'
    assert 'Operations: ' in call_tool(tool, config, '--shape', 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('library', 'task'),
    [('mmdet', 'Object Detection'), ('mmseg', 'Semantic Segmentation')],
)
def test_launchers_of_mm(library, task, demo_folder, tmp_path):
    """The libraries' own train.py takes our configs."""
    package = Path(find_spec(library).origin).parent
    output = run_tool(
        package / '.mim' / 'tools' / 'train.py',
        ROOT / 'configs' / 'demo' / f'{DEMOS[task]}.py',
        *('--work-dir', tmp_path, '--cfg-options', *SHORT[task]),
        'default_hooks.logger.interval=1',
        cwd=demo_folder,
    )
    assert 'loss: ' in output
    assert list(tmp_path.glob('*_1.pth'))


@pytest.fixture(scope='module')
def killed_run(demo_folder, small_config):
    """The work_dir of a training that was killed."""
    output = run_tool(
        *(TOOLS / 'train.py', small_config, '--work-dir', 'killed'),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
        cwd=demo_folder,
        code=-9,
        RECORD='record_killed',
        KILL_AT='4',
    )
    assert 'Iter(val)' not in output
    return demo_folder / 'killed'


@pytest.mark.slow
@pytest.mark.parametrize('damaged', [False, True])
def test_resume(damaged, demo_folder, small_config, single_run, killed_run):
    """A run that was killed continues as if it had not been."""
    folder = demo_folder / f'resumed_{damaged}'
    shutil.copytree(killed_run, folder)
    last, before = folder / 'iter_4.pth', folder / 'iter_2.pth'
    (folder / 'last_checkpoint').write_text(str(last))
    if damaged:
        last.write_bytes(last.read_bytes()[:-1000])
    output = call_tool(
        *(TOOLS / 'train.py', small_config, '--work-dir', folder, '--resume'),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
        cwd=demo_folder,
        RECORD=str(folder / 'record'),
    )
    note = f'damaged: {last}; resuming from {before}'
    assert (note in output) == damaged
    first, begin = (before, 2) if damaged else (last, 4)
    assert f'Load checkpoint from {first}' in output
    lines, expected = (
        [line for line in recorded(path) if 'iter' in line]
        for path in (folder / 'record', single_run)
    )
    assert [line['iter'] for line in lines] == list(range(begin, ITERS))
    for line, other in zip(lines, expected[begin:], strict=True):
        assert line == pytest.approx(other, rel=1e-5)


@pytest.fixture
def cfg(small_config, tmp_path):
    forget()  # the default scope of another test
    cfg = engine.read_config(small_config)
    cfg.work_dir = str(tmp_path)
    return cfg


def test_checkpoints_run_no_code(cfg, tmp_path):
    """Only while the runner loads one, mmengine's loaders are replaced."""
    schemes = dict(CheckpointLoader._schemes)
    runner = engine.build_runner(cfg, ())
    file = tmp_path / 'harmful.pth'
    weights = runner.model.state_dict()
    meta = Payload(tmp_path / 'made')
    torch.save(dict(state_dict=weights, meta=meta), file)
    runner.load_checkpoint(str(file))
    assert not (tmp_path / 'made').exists()
    assert CheckpointLoader._schemes == schemes
    with pytest.raises(FileNotFoundError):
        runner.load_checkpoint('nothing.pth')
    assert CheckpointLoader._schemes == schemes


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_process_group_on_the_cpu(launcher, monkeypatch):
    """SyncBN and mixed precision need a GPU."""
    mpi = 'OMPI_COMM_WORLD'
    ranks = dict.fromkeys(['RANK', 'SLURM_PROCID', f'{mpi}_RANK'], '0')
    sizes = dict.fromkeys(['WORLD_SIZE', 'SLURM_NTASKS', f'{mpi}_SIZE'], '1')
    names = 'LOCAL_RANK', 'SLURM_LOCALID', f'{mpi}_LOCAL_RANK'
    address = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    variables = {**ranks, **sizes, **dict.fromkeys(names, '3'), **address}
    variables['SLURM_NODELIST'] = 'here'
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # mmengine would set it for the tests that follow.
    monkeypatch.setattr(torch.multiprocessing, 'set_start_method', print)
    head = dict(norm_cfg=dict(type='SyncBN', eps=1))
    cfg = Config(
        dict(
            launcher=launcher,
            model=dict(heads=[head] * 2, norm_cfg=dict(type='GN')),
            optim_wrapper=dict(type='AmpOptimWrapper', loss_scale='dynamic'),
        )
    )
    notes = engine.adapt_to_cpu(cfg)
    try:
        assert torch.distributed.get_backend() == 'gloo'
        for name, value in variables.items():
            assert os.environ[name] == value
        assert cfg.model_wrapper_cfg.device_ids is None
    finally:
        torch.distributed.destroy_process_group()
    assert [head.norm_cfg.type for head in cfg.model.heads] == ['BN'] * 2
    assert cfg.model.norm_cfg.type == 'GN'
    assert cfg.optim_wrapper == dict(type='OptimWrapper')
    assert len(notes) == 2


def test_bfloat16_on_the_cpu(monkeypatch, tmp_path):
    """mmengine has no mixed precision on a CPU, so ours stands in."""
    wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)
    info = tmp_path / 'cpuinfo'
    monkeypatch.setattr(device, 'CPU_INFO', info)
    for flags in ('', 'flags : avx2 avx512f avx512bw'):
        cfg = Config(dict(model=dict(), optim_wrapper=wrapper))
        assert 'a CPU needs optim_wrapper.dtype' in engine.adapt_to_cpu(cfg)[0]
        assert cfg.optim_wrapper == dict(type='OptimWrapper')
        info.write_text(flags)
    info.write_text('flags : avx2 avx512f avx512_bf16')
    cfg = Config(dict(model=dict(), optim_wrapper=wrapper))
    assert engine.adapt_to_cpu(cfg) == []
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapper = OPTIM_WRAPPERS.build(
        dict(cfg.optim_wrapper, optimizer=optimizer)
    )
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 2))
        assert out.dtype == torch.bfloat16
        wrapper.update_params(out.float().sum())
    assert (before - model.weight).allclose(torch.tensor(0.1))


def test_hooks_find_the_weights(cfg, tmp_path):
    """In mm's layout, whatever the layout of the file; EMAHook needs it."""
    found = []

    class ReadingHook(Hook):
        priority = 'VERY_HIGH'

        def after_load_checkpoint(self, runner, checkpoint):
            found.append(checkpoint.keys())

    runner = engine.build_runner(cfg, ())
    runner.register_hook(ReadingHook())
    weights = runner.model.state_dict()
    for content in (weights, dict(model=weights), dict(state_dict=weights)):
        torch.save(content, tmp_path / 'file.pth')
        runner.load_checkpoint(str(tmp_path / 'file.pth'))
    assert found == [{'state_dict'}] * 3


@pytest.mark.parametrize('has_instructions', [True, False])
def test_muon_is_in_float32_where_bfloat16_is_slow(
    monkeypatch, has_instructions
):
    muon = pytest.importorskip('timm.optim.muon')
    monkeypatch.setattr(optim, 'computes_bfloat16', lambda: has_instructions)
    used, original = [], muon.zeropower_via_newtonschulz

    def compute(*args, dtype=torch.bfloat16, **kwargs):
        used.append(dtype)
        return original(*args, dtype=dtype, **kwargs)

    monkeypatch.setattr(muon, 'zeropower_via_newtonschulz', compute)
    weight = nn.Parameter(torch.rand(8, 8))
    optimizer = optim.build_muon([weight], lr=1e-3)
    weight.grad = torch.rand(8, 8)
    before = weight.detach().clone()
    optimizer.step()
    assert used == [torch.bfloat16 if has_instructions else torch.float32]
    assert not torch.equal(weight, before)
    assert muon.zeropower_via_newtonschulz is compute
