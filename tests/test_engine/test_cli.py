"""The commands: their arguments, help and errors."""

import argparse
import json
import re
from pathlib import Path

import mmengine.logging
import pytest
import torch
from helpers import TOOLS, call_tool, forget, open_config, run_tool
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from mmhatnet.engine import cli

FPN = 'sem_fpn/fpn_hatnet-tiny_8xb2-80k_ade20k-512x512.py'
SCRIPTS = (
    'dist_train.sh',
    'dist_test.sh',
    'slurm_train.sh',
    'slurm_test.sh',
    'quickstart.sh',
)


@pytest.mark.default_stack
@pytest.mark.parametrize(
    'name', [*SCRIPTS, 'setup_env.sh', 'run_tests.sh', 'gpu_check.sh']
)
def test_help_of_scripts(name, tmp_path):
    output = run_tool(TOOLS / name, '--help', cwd=tmp_path)
    assert output.startswith(f'Usage: tools/{name}')


@pytest.mark.default_stack
def test_gpu_check(tmp_path):
    """It needs a GPU by default, and reports each verdict."""
    more = tmp_path / 'test_more.py'
    more.write_text(
        'import pytest\n\n@pytest.mark.gpu\ndef test_a_failure():\n'
        "    raise ValueError('two\\nlines')\n"
    )
    command = TOOLS / 'gpu_check.sh', more, '--out', tmp_path
    assert "no device 'cuda': torch finds" in run_tool(*command, code=4)
    command += '--device', 'cpu', '-k', 'versions or graphs or failure'
    assert str(tmp_path / 'report.md') in run_tool(*command, code=1)
    checks = json.loads((tmp_path / 'report.json').read_text())['checks']
    verdicts = {check['name']: check['verdict'] for check in checks}
    assert verdicts == {
        'versions': 'passed',
        'cuda graphs': 'skipped',
        'a failure': 'failed',
    }
    assert 'ValueError: two lines' in (tmp_path / 'report.md').read_text()


@pytest.mark.default_stack
@pytest.mark.parametrize('name', SCRIPTS)
def test_usage_after_a_wrong_argument(name, tmp_path):
    output = run_tool(TOOLS / name, '--nothing', cwd=tmp_path, code=2)
    assert 'Usage: ' in output


@pytest.mark.default_stack
def test_second_interrupt_does_not_cut_the_end_off():
    code = """
import os, signal, time
from mmhatnet.engine.cli import one_line_errors
with one_line_errors():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(9)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        print('cleaned', flush=True)
"""
    output = run_tool('-c', code, code=130)
    assert output.splitlines()[-2:] == ['cleaned', '-c: interrupted']


def test_grids_as_options():
    parser = argparse.ArgumentParser()
    cli.add_cfg_options(parser)
    options = 'grid_sizes=4,7,14', 'ds_ratios=(4,7,14)'
    arguments = parser.parse_args(
        ['--cfg-options', *(f'model.backbone.{option}' for option in options)]
    )
    cfg = open_config('hatnet/hatnet-tiny_8xb128_in1k.py')
    cfg.merge_from_dict(arguments.cfg_options)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model).backbone
    assert backbone.grid_sizes == backbone.ds_ratios == (4, 7, 14)
    assert backbone.stages[2][0].attn.grid_size == 14
    assert backbone.stages[1][0].attn.ds_ratio == 7


def apply(*options, **cfg):
    """A config of ``test_cfg``, with options."""
    parser = argparse.ArgumentParser()
    cli.add_cfg_options(parser)
    cfg = Config(dict(test_cfg=cfg))
    cli.apply_options(cfg, parser.parse_args(['--cfg-options', *options]))
    return cfg.test_cfg


@pytest.mark.parametrize(
    ('old', 'text', 'new'),
    [
        ((1, 2), '160,120', (160, 120)),
        ((1, 2), '7', 7),
        ([1, 2], '(3,4,5)', [3, 4, 5]),
        ([(1, 2)], '[[3,4],[5,6]]', [(3, 4), (5, 6)]),
        (((1, 2), [3, 4]), '[[5,6],[7,8]]', ((5, 6), [7, 8])),
        ((), '3,4', (3, 4)),
        (None, '3,4', [3, 4]),
        (1, '(3,4)', (3, 4)),
    ],
)
def test_containers_of_options(old, text, new):
    """Tuples stay tuples, as mm's transforms need them."""
    assert apply(f'test_cfg.x={text}', x=old).x == new
    found = apply(f'test_cfg.a.1.x={text}', a=[{}, dict(type='A', x=old)])
    assert found.a == [{}, dict(type='A', x=new)]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('test_cfg.a.9.x=1', 'Index 9 exceeds the length of list'),
        ('test_cfg.a.x=1', 'list indices must be integers'),
        ('test_cfg.n.x=1', "of type <class 'NoneType'> in base config"),
        ('test_cfg.t.0=1', "of type <class 'tuple'> in base config"),
        ('test_cfg.s.x=1', "of type <class 'str'> in base config"),
        ('test_cfg.new=1 test_cfg.new.x=1', "'int' object"),
    ],
)
def test_options_that_do_not_fit(options, message):
    cfg = dict(a=[{}, {}], n=None, t=(1, 2), s='s' * 999)
    names = options.replace('=1', '').replace(' ', ', ')
    message = f'{names} do not fit the config: .*{message}'
    with pytest.raises(ValueError, match=message):
        apply(*options.split(), **cfg)


def test_new_and_replaced_settings():
    found = apply(
        'test_cfg.a.b.c=1', 'test_cfg.n._delete_=True', 'test_cfg.n.x=2', n=3
    )
    assert found == dict(a=dict(b=dict(c=1)), n=dict(x=2))


def test_failed_download_is_one_line(demo_folder, small_config, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = '{small_config}'
init_cfg = dict(
    _delete_=True, type='Pretrained', checkpoint='hatnet://tiny'
)
model = dict(backbone=dict(init_cfg=init_cfg))
""")
    command = TOOLS / 'train.py', config, '--work-dir', tmp_path
    offline = dict(
        cwd=demo_folder,
        TORCH_HOME=str(tmp_path),
        MMHATNET_RELEASE_URL='http://127.0.0.1:1',
    )
    output = call_tool(*command, code=1, **offline)
    *_, line = output.strip().splitlines()
    assert line.startswith('train.py: error: could not download http://127')
    assert str(tmp_path / 'hub' / 'checkpoints') in line
    # What it offers works.
    options = re.search(r'--cfg-options [\w.=]+', line)[0].split()
    short = 'train_cfg.max_iters=1', 'train_cfg.val_interval=2'
    call_tool(*command, *options, *short, **offline)


@pytest.mark.parametrize('content', ['', 'a = 1', 'model = 3'])
@pytest.mark.parametrize(
    'tool',
    [
        *('train.py --amp', 'test.py x.pth --tta'),
        *('analysis_tools/get_flops.py', 'deployment/export.py x.pth'),
    ],
)
def test_config_without_a_model_is_one_line(content, tool, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(content)
    tool, *options = tool.split()
    output = call_tool(TOOLS / tool, config, *options, cwd=tmp_path, code=1)
    name = Path(tool).name
    assert output.startswith(f'{name}: error: {config} has no model: inherit')


@pytest.mark.parametrize('options', [['train.py'], ['test.py', 'x.pth']])
def test_names_of_models(options, tmp_path):
    tool, *checkpoint = options
    for name, message in (
        ('hatnet-tiny_8xb128_in1k', 'no data at data/imagenet'),
        ('hatnet-tinny', "no model 'hatnet-tinny'.* hatnet-tiny_8xb128_in1k"),
    ):
        output = call_tool(
            TOOLS / tool, name, *checkpoint, cwd=tmp_path, code=1
        )
        assert re.match(f'{tool}: error: {message}', output)


@pytest.mark.parametrize(
    ('base', 'message'),
    [
        ('mmhatnet::sem_fpn/nope.py', '{config}: .*nope.py" does not exist'),
        ('mmfoo::resnet/nope.py', '{config}: .*load mmfoo config'),
        ('./base.py', '{folder}/base.py: line 2: '),
    ],
)
def test_a_wrong_base_is_one_line(tmp_path, base, message):
    """The message names the file, also if another one inherits it."""
    heir = tmp_path / 'heir.py'
    heir.write_text(f'_base_ = {base!r}')
    (tmp_path / 'base.py').write_text('a = 1\nb = dict(c=2\n')
    for config in (base, heir) if '::' in base else [heir]:
        args = cli.make_parser('').parse_args([str(config)])
        expected = message.format(config=config, folder=tmp_path)
        with (
            pytest.raises(SystemExit, match=f'error: cannot read {expected}'),
            cli.one_line_errors(),
        ):
            cli.load_config(args)


def test_only_our_own_errors_lose_their_traceback(tmp_path):
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
    # A user's config fails while we read it.
    config = tmp_path / 'config.py'
    config.write_text("open('nothing/there')")
    args.config = config
    with pytest.raises(FileNotFoundError), cli.one_line_errors():
        cli.load_config(args)


@pytest.mark.default_stack
def test_false_alarms_are_hidden(capsys):
    """Those of libraries, in what is printed and in what is logged."""
    alarms = (
        'Could not import OneDL. Skipping OneDL datasets.',
        'Line NMS is not compiled. You need to recompile',
        'Failed to search registry with scope "mmseg" in the "function" tree',
    )
    forget()  # an earlier logger writes elsewhere
    with cli.one_line_errors():
        for message in (*alarms, 'Failed to search registry', 'OneDL'):
            mmengine.logging.print_log(message)
            MMLogger.get_current_instance().warning(message)
    output = ''.join(capsys.readouterr())
    assert not any(alarm in output for alarm in alarms)
    assert output.count('Failed to search registry\n') == 2
    assert output.count('OneDL\n') == 2
    mmengine.logging.print_log(alarms[0])
    assert alarms[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (dict(type='ImageClasifier'), "type='ImageClasifier', .* ImageClass"),
        (dict(type='HATnet'), "type='HATnet', .* names: mmhatnet.HATNet"),
        (dict(type='ImageClassifier'), 'ImageClassifier needs .backbone'),
        (
            dict(type='GlobalAveragePooling', b=1),
            "GlobalAveragePooling .* 'b'; it has dim",
        ),
        (dict(type='LinearClsHead', num_classes=2, in_channels=8, b=1), "'b'"),
    ],
)
def test_wrong_parts_of_a_config(part, message):
    """What the classes of mm do not know is one line."""
    init_default_scope('mmpretrain')
    with pytest.raises(SystemExit, match=message), cli.one_line_errors():
        MODELS.build(part)


@pytest.mark.parametrize(
    ('config', 'part', 'value', 'message'),
    [
        (
            'hatnet/hatnet-tiny_8xb128_in1k.py',
            'head',
            9,
            r'head \(HATNetClsHead\) has in_channels=9, but its input has '
            r'other channels; the backbone gives \[384\], as its out_indices=',
        ),
        (
            FPN,
            'neck',
            [9, 96, 240, 384],
            r'neck \(FPN\) has in_channels=\[9, 96, 240, 384\], but .*; the '
            r'backbone gives \[48, 96, 240, 384\], as its out_indices=',
        ),
        (
            FPN,
            'neck',
            [48, 96, 240],
            r'neck .* but assert len\(inputs\) == len\(self.in_channels\) f',
        ),
        (
            FPN,
            'decode_head',
            [256, 256, 9, 256],
            r'decode_head \(FPNHead\) .* and in_index=.*; the neck gives 256',
        ),
        (FPN, 'backbone', 4, 'backbone is for images with other channels'),
    ],
)
@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_wrong_channels(config, part, value, message, device):
    """Of a part of a model: one line with what it gets."""
    cfg = open_config(config)
    cfg.model[part].in_channels = value
    with torch.device(device):
        model = MODELS.build(cfg.model)
        images = torch.rand(1, 3, 32, 32)
    with pytest.raises(SystemExit, match=message), cli.one_line_errors():
        model(images, mode='tensor')


def test_wrong_channels_of_regions():
    cfg = open_config('mask_rcnn/mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco.py')
    cfg.model.roi_head.bbox_roi_extractor.out_channels = 9
    extract = MODELS.build(cfg.model.roi_head.bbox_roi_extractor)
    maps, regions = [torch.rand(1, 256, 8, 8)] * 4, torch.zeros(1, 5)
    message = 'SingleRoIExtractor has out_channels=9, but its input has other'
    with pytest.raises(SystemExit, match=message), cli.one_line_errors():
        extract(maps, regions)


@pytest.mark.parametrize(
    'inputs', [torch.rand(2, 3, 8, 8), [torch.ones(3, 8, 8)]]
)
def test_wrong_length_of_mean(inputs):
    """Of mmpretrain, which does not check it."""
    cfg = dict(type='mmpretrain.ClsDataPreprocessor', mean=[1, 2], std=[1, 2])
    preprocessor = MODELS.build(cfg)
    message = 'mean and std of the data_preprocessor need one value for each'
    with pytest.raises(SystemExit, match=message), cli.one_line_errors():
        preprocessor(dict(inputs=inputs))


@pytest.mark.parametrize('name', ['mean', 'std'])
def test_wrong_length_in_mmengine(name):
    values = dict(mean=[1, 2, 3], std=[1, 2, 3]) | {name: [1, 2]}
    cfg = dict(type='mmengine.ImgDataPreprocessor', **values)
    message = f'`{name}` should have 1 or 3 values'
    with pytest.raises(SystemExit, match=message), cli.one_line_errors():
        MODELS.build(cfg)


def test_other_errors_of_mm_keep_their_traceback():
    """Those that do not come from the settings of a part."""
    model = MODELS.build(open_config(FPN).model)
    model.decode_head.in_index = []  # fails later, at x[0]
    with pytest.raises(IndexError), cli.one_line_errors():
        model(torch.rand(1, 3, 32, 32), mode='tensor')

    class Head(torch.nn.Module):
        in_channels = 3

        def forward(self, x):
            x[[0]] = torch.ones(2, 3)  # such as labels

    with pytest.raises(RuntimeError), cli.one_line_errors():
        Head()(torch.rand(3, 2))


def test_own_part_keeps_its_traceback():
    """It may be what gives the wrong channels."""

    class Neck(torch.nn.Module):
        def forward(self, maps):
            return [x[:, :9] for x in maps]

    cfg = open_config(FPN)
    cfg.model.decode_head.in_channels = cfg.model.neck.in_channels
    model = MODELS.build(cfg.model)
    model.neck = Neck()
    with (
        pytest.raises(RuntimeError, match='but got 9'),
        cli.one_line_errors(),
    ):
        model(torch.rand(1, 3, 32, 32), mode='tensor')


def test_full_disk():
    """The error of a library, in one line."""
    message = 'no space is left on the disk'
    with (
        pytest.raises(SystemExit, match=message),
        cli.one_line_errors(),
        open('/dev/full', 'wb', buffering=0) as file,
    ):
        file.write(b'1')
