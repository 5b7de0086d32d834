"""Training and testing as users start them: by commands, on the CPU."""

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import mmengine
import pytest
import torch
from helpers import ROOT, SMALL_ARCH
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from mmhatnet import checks, cli, launch
from mmhatnet.datasets import coco_to_semantic, make_demo_data

pytest.importorskip('skimage', reason='the demo data need scikit-image')

TOOLS = ROOT / 'tools'
TINYCOCO = ROOT.parent / 'shared' / 'data' / 'tinycoco'
ITERS = 6
DEMO = {
    'semantic': 'fpn_hatnet-tiny_2xb4-400_demo.py',
    'detection': 'retinanet_hatnet-tiny_fpn_2xb4-6e_demo.py',
    'instance': 'mask-rcnn_hatnet-tiny_fpn_2xb4-6e_demo.py',
    'classification': 'hatnet-tiny_2xb16-6e_demo.py',
}

# A run of seconds, on scenes of 64x64.
EPOCH = ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
SHORT = dict.fromkeys(DEMO, EPOCH)
SHORT['classification'] = (
    *EPOCH,
    'train_dataloader.dataset.indices=16',
    'val_dataloader.dataset.indices=4',
    'test_dataloader.dataset.indices=4',
)
SHORT['semantic'] = (
    'train_cfg.max_iters=1',
    "model.data_preprocessor.size='(64,64)'",
    "train_dataloader.dataset.pipeline.2.crop_size='(64,64)'",
)


def start(*command, cwd, **env):
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            'PYTHON': sys.executable,
            'PYTHONPATH': str(ROOT / 'tests'),
            'CUDA_VISIBLE_DEVICES': '',
            **env,
        },
    )


def run(*command, cwd, code=0, **env):
    process = start(*command, cwd=cwd, **env)
    output = process.communicate(timeout=300)[0]
    assert code is None or process.returncode == code, output
    return output


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """A folder with data/demo, as the root of a checkout may be."""
    folder = tmp_path_factory.mktemp('demo')
    make_demo_data(folder / 'data' / 'demo', 8, 2, size=(64, 64))
    return folder


@pytest.fixture(scope='module')
def config(demo):
    """The demo of Semantic FPN, smaller, and without anything random."""
    path = demo / 'small.py'
    path.write_text(f"""
_base_ = 'mmhatnet::demo/{DEMO['semantic']}'
custom_imports = dict(imports=['record_hook'])
custom_hooks = [dict(type='RecordHook')]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(_delete_=True, **{SMALL_ARCH})),
    neck=dict(in_channels={list(SMALL_ARCH['embed_dims'])}, out_channels=16),
    decode_head=dict(
        in_channels=[16] * 4,
        channels=16,
        dropout_ratio=0.0,
        norm_cfg=dict(_delete_=True, type='GN', num_groups=4),
    ),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ],
    ),
)
param_scheduler = [dict(type='PolyLR', end={ITERS}, by_epoch=False)]
train_cfg = dict(max_iters={ITERS}, val_interval={ITERS})
default_hooks = dict(checkpoint=dict(interval=2))
randomness = dict(seed=1)
""")
    return path


def recorded(folder, rank=0):
    lines = (folder / f'rank{rank}.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(folder, ranks=1):
    """Mean loss over the ranks, by iteration."""
    values = {}
    for rank in range(ranks):
        for line in recorded(folder, rank):
            if 'loss' in line:
                values.setdefault(line['iter'], []).append(line['loss'])
    assert all(len(v) == ranks for v in values.values())
    return {i: sum(v) / ranks for i, v in values.items()}


@pytest.fixture(scope='module')
def single(demo, config):
    """A run of one process: its folder."""
    run(
        *(sys.executable, TOOLS / 'train.py', config, '--work-dir', 'single'),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
        cwd=demo,
        RECORD='record_single',
    )
    return demo / 'record_single'


class TestDistributed:
    """Two processes with half the batch do what one does."""

    def check(self, demo, single, name):
        """Same loss curve, weights and metric."""
        expected = losses(single)
        assert list(expected) == list(range(ITERS))
        assert losses(demo / f'record_{name}', 2) == pytest.approx(
            expected, rel=1e-4
        )
        weights, reference = (
            torch.load(
                demo / folder / f'iter_{ITERS}.pth', weights_only=False
            )['state_dict']
            for folder in (name, 'single')
        )
        assert weights.keys() == reference.keys()
        for key, value in reference.items():
            torch.testing.assert_close(
                weights[key], value, atol=1e-4, rtol=1e-3
            )

    def test_two_processes(self, demo, config, single):
        output = run(
            *(TOOLS / 'dist_train.sh', config, 2, '--work-dir', 'two'),
            cwd=demo,
            RECORD='record_two',
        )
        self.check(demo, single, 'two')
        assert 'mIoU' in output
        assert 'eta' in output

    def test_two_nodes(self, demo, config, single):
        port = str(free_port())
        nodes = [
            start(
                *(TOOLS / 'dist_train.sh', config, 1, '--work-dir', 'nodes'),
                cwd=demo,
                RECORD='record_nodes',
                NNODES='2',
                NODE_RANK=rank,
                PORT=port,
            )
            for rank in '01'
        ]
        for node in nodes:
            output = node.communicate(timeout=300)[0]
            assert node.returncode == 0, output
        self.check(demo, single, 'nodes')

    def test_slurm(self, demo, config, single):
        """A srun that starts the processes here."""
        bin_ = demo / 'bin'
        bin_.mkdir()
        (bin_ / 'srun').write_text("""#!/usr/bin/env bash
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
        (bin_ / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\n')
        for file in bin_.iterdir():
            file.chmod(0o755)
        run(
            *(TOOLS / 'slurm_train.sh', 'partition', 'name', config),
            *('--work-dir', 'slurm'),
            cwd=demo,
            RECORD='record_slurm',
            PATH=f'{bin_}:{os.environ["PATH"]}',
            MASTER_PORT=str(free_port()),
            GPUS='2',
            GPUS_PER_NODE='0',
        )
        self.check(demo, single, 'slurm')

    def test_evaluation(self, demo, single, config):
        """Metric, predictions and pictures."""
        checkpoint = demo / 'single' / f'iter_{ITERS}.pth'
        one, two = (
            run(
                *(*command, '--work-dir', name, '--show-dir', f'shown_{name}'),
                *('--out', f'{name}.pkl'),
                cwd=demo,
            )
            for name, command in {
                'one': (sys.executable, TOOLS / 'test.py', config, checkpoint),
                'both': (TOOLS / 'dist_test.sh', config, checkpoint, 2),
            }.items()
        )
        score = 'aAcc: '
        assert one.split(score)[1].split()[0] == two.split(score)[1].split()[0]
        assert len(mmengine.load(demo / 'both.pkl')) == 2
        assert len(list((demo / 'shown_one').rglob('*.png'))) == 2
        # mmengine draws in the first process only.
        assert len(list((demo / 'shown_both').rglob('*.png'))) == 1


class TestResume:
    """A run that was killed goes on as if it had not been."""

    @pytest.fixture(scope='class')
    def killed(self, demo, config, single):
        output = run(
            *(sys.executable, TOOLS / 'train.py', config),
            *('--work-dir', 'killed', '--cfg-options'),
            'train_dataloader.batch_size=4',
            cwd=demo,
            code=-9,
            RECORD='record_killed',
            KILL_AT='4',
        )
        assert 'Iter(val)' not in output
        return demo / 'killed'

    def resume(self, demo, config, folder):
        return run(
            *(sys.executable, TOOLS / 'train.py', config, '--resume'),
            *('--work-dir', folder, '--cfg-options'),
            'train_dataloader.batch_size=4',
            cwd=demo,
            RECORD=f'record_{folder}',
        )

    def check(self, demo, single, folder, first):
        lines = [
            line
            for line in recorded(demo / f'record_{folder}')
            if 'iter' in line
        ]
        expected = [line for line in recorded(single) if 'iter' in line]
        assert [line['iter'] for line in lines] == list(range(first, ITERS))
        for line, other in zip(lines, expected[first:], strict=True):
            assert line == pytest.approx(other, rel=1e-5)

    def test_last_checkpoint(self, demo, config, single, killed):
        shutil.copytree(killed, demo / 'resumed')
        (demo / 'resumed' / 'last_checkpoint').write_text(
            str(demo / 'resumed' / 'iter_4.pth')
        )
        self.resume(demo, config, 'resumed')
        self.check(demo, single, 'resumed', 4)

    def test_truncated_checkpoint(self, demo, config, single, killed):
        shutil.copytree(killed, demo / 'truncated')
        last = demo / 'truncated' / 'iter_4.pth'
        last.write_bytes(last.read_bytes()[:-1000])
        (last.parent / 'last_checkpoint').write_text(str(last))
        output = self.resume(demo, config, 'truncated')
        before = last.with_name('iter_2.pth')
        assert (
            f'{last} is damaged or gone: resuming from the one before it'
            in output
        )
        assert f'Load checkpoint from {before}' in output
        self.check(demo, single, 'truncated', 2)

    def test_chosen_checkpoint(self, tmp_path):
        for step in (2, 10, 9):
            with zipfile.ZipFile(tmp_path / f'iter_{step}.pth', 'w') as file:
                file.writestr('data', 'x')
        (tmp_path / 'iter_10.pth').write_bytes(b'PK')
        cfg = Config(
            dict(
                resume=True,
                load_from=str(tmp_path / 'iter_10.pth'),
                work_dir=str(tmp_path),
            )
        )
        with pytest.raises(ValueError, match=r'damaged.*--resume .*iter_9\.'):
            checks.resume_intact(cfg)
        (tmp_path / 'iter_2.pth').write_bytes(b'')
        cfg.load_from = str(tmp_path / 'iter_2.pth')
        with pytest.raises(ValueError, match='no intact checkpoint before'):
            checks.resume_intact(cfg)
        (tmp_path / 'mine.pth').write_bytes(b'')
        cfg.load_from = str(tmp_path / 'mine.pth')
        with pytest.raises(ValueError, match=r'mine\.pth is damaged'):
            checks.resume_intact(cfg)
        cfg.load_from = str(tmp_path / 'iter_3.pth')
        with pytest.raises(FileNotFoundError, match='iter_3'):
            checks.resume_intact(cfg)
        cfg.load_from = None
        assert checks.resume_intact(cfg) == []  # nothing to resume yet


class TestGrids:
    """--cfg-options model.backbone.grid_sizes and ds_ratios."""

    options = (
        'model.backbone.grid_sizes=4,3,2',
        'model.backbone.ds_ratios=5,6,7',
    )

    def test_train_and_test(self, demo, config):
        run(
            *(sys.executable, TOOLS / 'train.py', config),
            *('--work-dir', 'grids', '--cfg-options', *self.options),
            'train_cfg.max_iters=1',
            cwd=demo,
            RECORD='record_grids',
        )
        run(
            *(sys.executable, TOOLS / 'test.py', config, 'grids/iter_1.pth'),
            *('--work-dir', 'grids', '--cfg-options', *self.options),
            cwd=demo,
            RECORD='record_grids_test',
        )
        for folder in ('record_grids', 'record_grids_test'):
            assert recorded(demo / folder)[0]['grids'] == [3, 6]

    def test_illegal(self, demo, config):
        output = run(
            *(sys.executable, TOOLS / 'train.py', config),
            *('--cfg-options', 'model.backbone.grid_sizes=8,0,8'),
            cwd=demo,
            code=1,
        )
        assert 'Traceback' not in output
        *_, line = output.strip().splitlines()
        assert line.startswith('train.py: error: ')
        assert 'grid_sizes (G1)' in line
        assert 'got [8, 0, 8]' in line


@pytest.mark.parametrize('task', DEMO)
def test_demo(task, demo, tmp_path):
    """Every demo is trained, evaluated and drawn by our tools."""
    config = ROOT / 'configs' / 'demo' / DEMO[task]
    options = ['--cfg-options', 'default_hooks.checkpoint.interval=1']
    options += [*SHORT[task], 'default_hooks.logger.interval=1']
    command = [sys.executable, TOOLS / 'train.py', config]
    run(*command, '--work-dir', tmp_path, *options, cwd=demo)
    (checkpoint,) = [
        path
        for path in tmp_path.glob('*_1.pth')
        if not path.name.startswith('best')
    ]
    output = run(
        *(sys.executable, TOOLS / 'test.py', config, checkpoint),
        *('--work-dir', tmp_path, '--show-dir', tmp_path / 'shown'),
        *('--out', tmp_path / 'out.pkl', *options),
        cwd=demo,
    )
    # A detector finds nothing after one epoch, and then there is no metric.
    metrics = dict(semantic='mIoU', classification='accuracy/top1')
    assert metrics.get(task, 'Evaluating bbox') in output
    pictures = list((tmp_path / 'shown').rglob('*.*g'))
    images = 4 if task == 'classification' else 2
    assert len(mmengine.load(tmp_path / 'out.pkl')) == images
    assert len(pictures) == images


@pytest.mark.skipif(not TINYCOCO.exists(), reason='needs tinycoco')
@pytest.mark.parametrize('task', ['semantic', 'detection', 'instance'])
def test_tinycoco(task, tmp_path):
    """Real photographs, by the configs of the paper, in two processes."""
    name = {
        'semantic': 'sem_fpn/fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py',
        'detection': 'retinanet/retinanet_hatnet-tiny_fpn_8xb2-1x_coco.py',
        'instance': 'mask_rcnn/mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco.py',
    }[task]
    config = tmp_path / 'tinycoco.py'
    config.write_text(f"""
_base_ = 'mmhatnet::{name}'
data_root = {str(TINYCOCO)!r} + '/'
model = dict(backbone=dict(init_cfg=None))
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
""")
    if task == 'semantic':
        for split in ('train', 'val'):
            classes = coco_to_semantic(
                TINYCOCO / f'annotations/instances_{split}2017.json',
                tmp_path / 'labels' / split,
            )
        text = f"""
metainfo = dict(classes={classes}, palette=[[n] * 3 for n in range(81)])
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
]
resize = dict(type='Resize', scale=(128, 128))
model['decode_head'] = dict(num_classes=81)
model['data_preprocessor'] = dict(size=(128, 128))
for split, loader in dict(train=train_dataloader, val=val_dataloader).items():
    order = [load[0], load[1], resize] if split == 'train' else [
        load[0], resize, load[1]]
    loader['dataset'] = dict(
        _delete_=True,
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(
            img_path=f'{{split}}2017',
            seg_map_path={str(tmp_path)!r} + f'/labels/{{split}}',
        ),
        metainfo=metainfo,
        pipeline=[*order, dict(type='PackSegInputs')],
    )
train_cfg = dict(max_iters=2, val_interval=2)
"""
    else:
        text = """
scale = dict(type='Resize', scale=(128, 128), keep_ratio=True)
mask = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_dataloader['dataset'] = dict(
    data_root=data_root,
    indices=8,
    pipeline=[
        dict(type='LoadImageFromFile'),
        mask,
        scale,
        dict(type='PackDetInputs'),
    ],
)
val_dataloader['dataset'] = dict(
    data_root=data_root,
    pipeline=[
        dict(type='LoadImageFromFile'),
        scale,
        mask,
        dict(type='PackDetInputs', meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ],
)
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json'
)
train_cfg = dict(max_epochs=1)
"""
    config.write_text(config.read_text() + text)
    output = run(TOOLS / 'dist_train.sh', config, 2, cwd=tmp_path)
    metric = 'mIoU: ' if task == 'semantic' else 'Evaluating bbox'
    assert metric in output


@pytest.mark.parametrize(
    'config',
    [
        'sem_fpn/fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py',
        'retinanet/retinanet_hatnet-tiny_fpn_8xb2-1x_coco.py',
        'hatnet/hatnet-tiny_8xb128_in1k.py',
    ],
)
def test_tta(config):
    cfg = launch.read_config(ROOT / 'configs' / config)
    init_default_scope(cfg.default_scope)
    head = cfg.model.type
    launch.enable_tta(cfg)
    cfg.model.module.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert 'TTA' in type(model).__name__
    assert type(model.module).__name__ == head
    dataset = cfg.test_dataloader.dataset
    assert any(step.type == 'TestTimeAug' for step in dataset.pipeline)


@pytest.mark.parametrize(
    ('library', 'task'),
    [
        ('mmseg', 'semantic'),
        ('mmdet', 'detection'),
        ('mmpretrain', 'classification'),
    ],
)
def test_launchers_of_mm(library, task, demo, tmp_path):
    """The libraries' own train.py takes our configs."""
    package = Path(find_spec(library).origin).parent
    output = run(
        *(sys.executable, package / '.mim' / 'tools' / 'train.py'),
        ROOT / 'configs' / 'demo' / DEMO[task],
        *('--work-dir', tmp_path, '--cfg-options', *SHORT[task]),
        'default_hooks.logger.interval=1',
        cwd=demo,
    )
    assert 'loss: ' in output
    assert list(tmp_path.glob('*_1.pth'))


def test_config_of_a_user(demo, tmp_path):
    """Five lines outside of the repository swap the head."""
    path = tmp_path / 'mine.py'
    path.write_text("""\
_base_ = 'mmhatnet::sem_fpn/fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py'

head = dict(type='SegformerHead', in_channels=[256] * 4, channels=256)
keep = dict(in_index=[0, 1, 2, 3], num_classes=150, dropout_ratio=0.1)
model = dict(decode_head=dict(_delete_=True, **head, **keep))
""")
    cfg = launch.read_config(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert type(model.decode_head).__name__ == 'SegformerHead'
    assert model.decode_head.num_classes == 150
    assert type(model.backbone).__name__ == 'HATNet'
    assert 'mmhatnet' not in str(cfg).replace('mmhatnet.HATNet', '')


CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)


class TestData:
    @pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
    def test_absent(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cfg = Config.fromfile(path)
        with pytest.raises(FileNotFoundError) as error:
            checks.check_data(cfg, ('train', 'val'))
        message = str(error.value)
        (source,) = [s for s in checks.DATA_SOURCES.values() if s in message]
        folder = cfg.train_dataloader.dataset.data_root
        assert folder in message
        assert '\n' not in message

    def test_parts(self, demo, monkeypatch):
        monkeypatch.chdir(demo)
        cfg = Config.fromfile(ROOT / 'configs' / 'demo' / DEMO['instance'])
        checks.check_data(cfg, ('train', 'val', 'test'))
        dataset = cfg.train_dataloader.dataset
        cfg.train_dataloader.dataset = ConfigDict(
            type='RepeatDataset', times=2, dataset=dataset
        )
        checks.check_data(cfg, ('train',))
        dataset.ann_file = 'annotations/nothing.json'
        cfg.train_dataloader.dataset.dataset = dataset
        with pytest.raises(FileNotFoundError, match='annotations/nothing'):
            checks.check_data(cfg, ('train',))
        checks.check_data(cfg, ('val',))

    def test_one_line(self, tmp_path):
        """Of the command, in one process and in two."""
        config = ROOT / 'configs/retinanet'
        config /= 'retinanet_hatnet-tiny_fpn_8xb2-1x_coco.py'
        for command in (
            (sys.executable, TOOLS / 'train.py', config),
            (TOOLS / 'dist_train.sh', config, 2),
        ):
            output = run(*command, cwd=tmp_path, code=1)
            assert 'train.py: error: no data at data/coco' in output
            assert 'download_dataset' in output
            assert 'Traceback' not in output


def test_on_the_cpu(monkeypatch):
    monkeypatch.setattr(launch, 'is_distributed', lambda: False)
    started = []
    monkeypatch.setattr(
        launch, 'init_dist', lambda *args, **kwargs: started.append(kwargs)
    )
    cfg = Config(
        dict(
            launcher='pytorch',
            model=dict(
                heads=[dict(norm_cfg=dict(type='SyncBN', eps=1))] * 2,
                norm_cfg=dict(type='GN'),
            ),
            optim_wrapper=dict(type='AmpOptimWrapper', loss_scale='dynamic'),
        )
    )
    notes = launch.adapt_to_cpu(cfg)
    assert started == [dict(backend='gloo')]
    assert [head.norm_cfg.type for head in cfg.model.heads] == ['BN'] * 2
    assert cfg.model.norm_cfg.type == 'GN'
    assert cfg.optim_wrapper == dict(type='OptimWrapper')
    assert len(notes) == 2


class TestForeignCheckpoint:
    """A file of which nothing fits is an error, not a random model."""

    def run(self, config, checkpoint, demo):
        return run(
            *(sys.executable, TOOLS / 'test.py', config, checkpoint),
            cwd=demo,
            code=1,
        ).splitlines()[-1]

    def test_other_model(self, demo, config):
        torch.save(dict(conv1=torch.ones(1)), demo / 'other.pth')
        line = self.run(config, 'other.pth', demo)
        assert line.startswith('test.py: error: other.pth does not fit')
        assert 'conv1' in line
        assert 'backbone.stem' in line

    def test_official_in_a_segmentor(self, demo, config, official):
        torch.save(dict(model=official('tiny')), demo / 'official.pth')
        line = self.run(config, 'official.pth', demo)
        assert 'error: official.pth does not fit' in line
        assert 'init_cfg' in line


def test_no_download(demo, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = 'mmhatnet::demo/{DEMO['semantic']}'
init_cfg = dict(
    _delete_=True, type='Pretrained', checkpoint='hatnet://tiny'
)
model = dict(backbone=dict(init_cfg=init_cfg))
""")
    output = run(
        *(sys.executable, TOOLS / 'train.py', config, '--work-dir', tmp_path),
        cwd=demo,
        code=1,
        TORCH_HOME=str(tmp_path),
        MMHATNET_RELEASE_URL='http://127.0.0.1:1',
    )
    assert 'Traceback' not in output
    line = output.strip().splitlines()[-1]
    assert line.startswith('train.py: error: could not download http://127')
    assert str(tmp_path / 'hub' / 'checkpoints') in line


def test_resume_before_there_is_a_checkpoint(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from='x', resume=False))
    launch.enable_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'x')
    (tmp_path / 'last_checkpoint').write_text('iter_1.pth')
    launch.enable_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, None)
    launch.enable_resume(cfg, 'y')
    assert (cfg.resume, cfg.load_from) == (True, 'y')


def test_amp_and_auto_scale_lr():
    cfg = Config(
        dict(
            optim_wrapper=dict(optimizer=dict(type='AdamW')),
            auto_scale_lr=dict(base_batch_size=16),
        )
    )
    launch.enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    launch.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ValueError, match='base_batch_size'):
        launch.enable_auto_scale_lr(Config(dict()))
    with pytest.raises(ValueError, match='Other'):
        launch.enable_amp(Config(dict(optim_wrapper=dict(type='Other'))))


def test_only_our_own_errors_lose_their_traceback():
    args = cli.make_parser('').parse_args(['nothing'])
    with (
        pytest.raises(SystemExit, match='error: no config at nothing'),
        cli.one_line_errors(),
    ):
        cli.load_config(args)
    with (
        pytest.raises(ValueError, match='invalid literal'),
        cli.one_line_errors(),
    ):
        int('x')


@pytest.mark.parametrize(
    'name',
    [
        'dist_train.sh',
        'dist_test.sh',
        'slurm_train.sh',
        'slurm_test.sh',
        'quickstart.sh',
    ],
)
def test_help_of_the_scripts(name, tmp_path):
    assert 'Usage: ' in run(TOOLS / name, '--help', cwd=tmp_path)
    assert 'Usage: ' in run(TOOLS / name, '--nothing', cwd=tmp_path, code=2)
