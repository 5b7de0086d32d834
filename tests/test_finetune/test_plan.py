"""What tools/finetune.py chooses, and the config that it writes."""

import math
from argparse import ArgumentTypeError
from dataclasses import dataclass, field, replace

import pytest
import torch
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from PIL import Image

from mmhatnet.engine.runner import adapt_to_cpu
from mmhatnet.finetune import plan as plans
from mmhatnet.finetune.plan import choose, fit_to_budget, schedule
from mmhatnet.finetune.recipe import write_config
from mmhatnet.finetune.samples import Box, Found, Sample
from mmhatnet.finetune.training import search_lr
from mmhatnet.utils.arguments import duration
from mmhatnet.utils.config import read_config


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [('90s', 90), ('15m', 900), ('1.5h', 5400)],
)
def test_duration(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize('text', ['', '90', '0', '-5', '5d', 'm', 'nan'])
def test_wrong_duration(text):
    with pytest.raises(ArgumentTypeError, match='15m'):
        duration(text)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(plans, 'is_reachable', lambda weights: False)


@pytest.fixture
def found(tmp_path):
    """A function that makes data of a task."""

    def make(task='classification', size=(96, 80), count=20):
        path = tmp_path / 'image.png'
        Image.new('RGB', size).save(path)
        boxes = [Box(0, 0, 24, 24, 0)]
        samples = [Sample(path, 'train', size, boxes=boxes)] * count
        samples += [Sample(path, 'val', size, boxes=boxes)] * 4
        return Found(tmp_path, 'made up', task, samples, ['a', 'b', 'c'])

    return make


@dataclass
class Clock:
    """Says that a step takes a time for each pixel, and notes the sizes."""

    seconds: float
    asked: list = field(default_factory=list)

    def __call__(self, plan):
        self.asked.append((plan.arch, plan.size))
        return self.seconds * plan.size**2


@pytest.mark.parametrize(
    ('task', 'size', 'expected'),
    [
        ('classification', (32, 28), 32),
        ('classification', (640, 480), 224),
        ('segmentation', (192, 160), 192),
        ('segmentation', (512, 512), 512),
        ('detection', (4000, 3000), 640),
    ],
)
def test_size_follows_the_images(task, size, expected, found):
    plan = choose(found(task, size), {})
    assert plan.size == expected
    assert plan.small == (expected == 32)
    if not plan.small:
        for stage, g2 in enumerate(plan.ds_ratios):
            assert 5 < (plan.size >> 2 + stage) / g2 < 9


def test_options_win(found):
    options = dict(
        **dict(arch='small', weights='none', size=160, batch_size=3, lr=0.5),
        **dict(g1=(4, 4, 4), g2=(2, 2, 2), iters=7, seed=5),
    )
    plan = choose(found('segmentation'), options)
    clock = Clock(1.0)
    plan = schedule(fit_to_budget(plan, 1.0, clock, options), 1.0, 7)
    assert clock.asked == [('small', 160)]
    for name in ('arch', 'size', 'batch_size', 'lr', 'iters', 'seed'):
        assert getattr(plan, name) == options[name]
    assert (plan.start, plan.grid_sizes) == ('', (4, 4, 4))
    assert plan.ds_ratios == (2, 2, 2)
    for name in ('image size', 'batch size', 'learning rate', 'schedule'):
        assert 'as asked' in plan.reasons[name]


def test_images_shrink_for_the_budget(found):
    plan = choose(found('segmentation', (512, 512)), {})
    plan = fit_to_budget(plan, 100, Clock(1e-5), {})
    assert 128 <= plan.size < 512
    assert plan.step == 1e-5 * plan.size**2
    assert plan.step * plans.SHORTEST <= 100
    assert 'budget' in plan.reasons['image size']


@pytest.mark.parametrize('seconds', [2, 100, 1e5])
def test_schedule_fits_the_budget(seconds, found):
    plan = choose(found(), {})
    plan.step = 0.1
    plan = schedule(plan, seconds)
    evaluating = plan.evaluations * (1 + plan.step * 4 / plan.batch_size)
    assert plan.iters * plan.step + min(evaluating, seconds / 2) <= seconds
    assert plan.iters >= min(0.4 * seconds / plan.step, 1000)
    assert plan.iters <= max(1000, 100 * plan.images / plan.batch_size)


@pytest.mark.parametrize('iters', [1, 9, 10])
def test_short_schedules_build(iters, found, tmp_path):
    """A budget may allow a single step."""
    plan = replace(choose(found(), {}), iters=iters)
    path = tmp_path / 'config.py'
    write_config(plan, dict(metainfo={}, train={}, val={}), path)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for scheduler in read_config(path).param_scheduler:
        PARAM_SCHEDULERS.build(
            scheduler, default_args=dict(optimizer=optimizer)
        )


def test_larger_models_if_their_weights_are_there(found, monkeypatch):
    there = 'hatnet://tiny', 'hatnet://small'
    monkeypatch.setattr(plans, 'is_reachable', there.__contains__)
    plan = fit_to_budget(choose(found(), {}), 1e6, Clock(1e-6), {})
    assert (plan.arch, plan.start) == ('small', 'hatnet://small')
    plan = fit_to_budget(choose(found(), {}), 1.0, Clock(1e-6), {})
    assert (plan.arch, plan.start) == ('micro', plans.SHIPPED)


def test_random_start_without_the_network(found):
    plan = choose(found(), dict(arch='tiny'))
    assert not plan.start
    assert 'FanOutInit' in plan.reasons['start weights']


@pytest.mark.parametrize(
    ('chosen', 'loss'),
    [
        (0.5, lambda factor: factor),
        (2, lambda factor: -factor),
        (1, lambda factor: -factor if factor <= 1 else math.nan),
    ],
)
def test_search_of_the_learning_rate(chosen, loss, found):
    """The lowest loss of the last steps wins; rates may be too high."""
    plan = choose(found(), {})
    plan.step = 0.01

    def losses(tried, steps):
        return [-9.0] * (steps // 2) + [loss(tried.lr / plan.lr)] * steps

    assert search_lr(plan, 10, losses).lr == pytest.approx(chosen * plan.lr)
    plan.step = 1.0  # there is no time
    assert search_lr(plan, 10, losses) is plan


@pytest.mark.parametrize(
    ('arch', 'start'), [('micro', plans.SHIPPED), ('micro', ''), ('tiny', '')]
)
@pytest.mark.parametrize('task', plans.NAMES)
def test_config_builds(task, arch, start, found, tmp_path):
    """With mm's own reader; the classes, G1 and G2 arrive in the model."""
    plan = choose(found(task), dict(arch=arch, weights='none'))
    plan.start = start
    data = dict(metainfo=dict(classes=plan.classes))
    for split in ('train', 'val'):
        data[split] = dict(
            type='CustomDataset', data_root='data', ann_file=f'{split}.txt'
        )
    path = tmp_path / 'config.py'
    plan.cfg_options = {
        'optim_wrapper.clip_grad.max_norm': 3.0,
        'optim_wrapper.optimizer._delete_': True,
        'optim_wrapper.optimizer.type': 'SGD',
        'optim_wrapper.optimizer.lr': 0.1,
    }
    write_config(plan, data, path)
    assert path.read_text().count('\n') < 300
    cfg = read_config(path)
    assert cfg.model.backbone.init_cfg.get('checkpoint', '') == start
    cfg.model.backbone.init_cfg = None
    adapt_to_cpu(cfg)
    if task == 'classification':
        cfg.model.data_preprocessor = cfg.data_preprocessor
    with MODELS.switch_scope_and_registry(cfg.default_scope) as registry:
        model = registry.build(cfg.model)
    assert model.backbone.ds_ratios == plan.ds_ratios
    counts = [
        module.num_classes
        for name, module in model.named_modules()
        if hasattr(module, 'num_classes') and 'rpn' not in name
    ]
    assert set(counts) - {None} == {3}
    assert cfg.train_cfg.max_iters == plan.iters
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=3.0)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.1)
    assert cfg.val_dataloader.sampler.type == 'DefaultSampler'
