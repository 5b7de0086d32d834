"""The choices of a training: the model, its size and its schedule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil, sqrt
from statistics import median, quantiles
from typing import Any, NamedTuple

from ..models.archs import Ratio
from ..models.windows import cell_side
from ..weights.releases import RELEASES, locate_weights
from .samples import Found, counted


class Task(NamedTuple):
    """What depends on the task only."""

    model: str  # for people
    config: str  # with a place for the backbone
    library: str  # of mm
    metric: str  # that chooses the best checkpoint
    title: str  # of the metric
    gain: float  # smallest of the metric that counts
    chart: str  # for people
    trivial: str  # the best answer without a model
    sizes: tuple[int, int]  # pixels of a side, at least and at most
    epochs: tuple[int, int]  # at least and at most
    batch_size: int  # for many images
    base_batch_size: int  # of the learning rate in our configs


NAMES = 'classification', 'segmentation', 'detection', 'instances'
_ROWS: list[tuple] = [
    ('a classifier', 'Semantic FPN', 'RetinaNet', 'Mask R-CNN'),
    ('hatnet_cls', 'fpn_{}', 'retinanet_{}_fpn', 'mask-rcnn_{}_fpn'),
    ('mmpretrain', 'mmseg', 'mmdet', 'mmdet'),
    ('accuracy/top1', 'mIoU', 'coco/bbox_mAP', 'coco/segm_mAP'),
    ('accuracy (%)', 'mIoU (%)', 'box AP (0 to 1)', 'mask AP (0 to 1)'),
    (0.1, 0.1, 0.001, 0.001),
    ('confusion matrix',) * 2 + ('precision and recall',) * 2,
    ('always the commonest class',) * 2 + ('finding nothing',) * 2,
    ((64, 224), (128, 512), (192, 640), (192, 640)),
    ((15, 100), (30, 150), (20, 100), (15, 100)),
    (64, 8, 4, 4),
    (256, 8, 4, 4),
]
TASKS = {
    name: Task._make(values)
    for name, *values in zip(NAMES, *_ROWS, strict=True)
}
SHIPPED = 'hatnet://cifar10-classifier'  # the backbone in the package
ORDER = 'micro', *RELEASES  # from small to large
LR, LR_ADAMW = 4e-3, 5e-4  # of these configs, for Muon and without timm
SMALL = 48  # pixels: the stem then halves the image only once, as for CIFAR-10
SHORTEST = 100  # iterations that a model needs in any case
SHARE = 0.7  # of the time of a training, without its evaluations


@dataclass
class Plan:
    """What will be trained, and why."""

    task: str  # a key of TASKS
    classes: list[str]
    images: int  # of the training split
    evaluated: int  # images of the validation split
    arch: str  # 'micro' to 'large'
    start: str  # weights; empty for a random start
    size: int  # pixels: a classifier's shorter side, else the longer one
    object_size: float  # of small objects, in shares of the longer side
    batch_size: int
    lr: float = 0.0  # at its peak
    grid_sizes: tuple[int, ...] = (8, 8, 8)
    ds_ratios: tuple[Ratio, ...] = (8, 4, 2)
    iters: int = SHORTEST
    evaluations: int = 1  # during the training
    step: float = 0.0  # seconds, as measured here
    seed: int = 0
    cfg_options: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # of each choice

    @property
    def about(self) -> Task:
        """What depends on the task only."""
        return TASKS[self.task]

    @property
    def small(self) -> bool:
        """Whether the images are as small as those of CIFAR-10."""
        return self.task == 'classification' and self.size <= SMALL

    @property
    def evaluation(self) -> float:
        """Seconds of an evaluation, as far as it can be known before."""
        # A second passes first, then an image takes as long as in a step.
        return 1 + self.step / self.batch_size * self.evaluated

    @property
    def detects(self) -> bool:
        """Whether the task has boxes."""
        return self.about.library == 'mmdet'


def choose(found: Found, options: Mapping) -> Plan:
    """Choose what the data alone decide.

    Args:
        found (Found): The user's data.
        options (Mapping): What the user has chosen, as the arguments of
            ``tools/finetune.py``; None or absent otherwise.

    Returns:
        Plan: The plan, for the smallest model, without a schedule.

    Raises:
        OSError: If the weights that the user chose cannot be read.
    """
    images, arch = len(found.splits['train']), options.get('arch') or ORDER[0]
    start, why_start = find_start(arch, options.get('weights'))
    size, why_size = _choose_size(found)
    batch = TASKS[found.task].batch_size
    if found.task == 'classification' and images < 1000:
        batch = 32 if images >= 300 else 16
    plan = Plan(
        task=found.task,
        classes=found.classes,
        images=images,
        evaluated=len(found.splits['val']),
        arch=arch,
        start=start,
        size=options.get('size') or size,
        object_size=_small_objects(found),
        batch_size=min(images, options.get('batch_size') or batch),
        seed=options.get('seed') or 0,
        cfg_options=options.get('cfg_options') or {},
    )
    # The linear rule gives too little for much smaller batches.
    scale = sqrt(plan.batch_size / plan.about.base_batch_size)
    scaled = float(f'{scale * (LR if has_muon() else LR_ADAMW):.2g}')
    plan.lr = options.get('lr') or scaled

    def why(option: str, reason: str) -> str:
        return 'as asked' if options.get(option) else reason

    why_batch = why('batch_size', f'for {counted(images, "image")}')
    why_lr = why('lr', 'the default for this batch size')
    plan.reasons = {
        'model': f'{plan.about.model}, classes: {len(plan.classes)}',
        'backbone': f'HAT-Net {arch}',
        'start weights': why_start,
        'image size': f'{plan.size}, {why("size", why_size)}',
        'batch size': f'{plan.batch_size}, {why_batch}',
        'learning rate': f'{plan.lr:.2g}, {why_lr}',
    }
    return _with_grids(plan, options)


def has_muon() -> bool:
    """Whether the installed timm has Muon, which finetuning prefers."""
    try:
        from timm.optim import Muon  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def is_reachable(weights: str) -> bool:
    """Whether weights are here, or can be downloaded."""
    try:
        locate_weights(weights)
    except OSError:
        return False
    return True


def find_start(arch: str, weights: str | None = None) -> tuple[str, str]:
    """Find the start weights, empty for a random start, and the reason.

    OSError if those that the user chose cannot be read.
    """
    if weights == 'none':
        return '', 'random (mmhatnet.FanOutInit), as asked'
    if weights:
        locate_weights(weights)
        return weights, f'{weights}, as asked'
    if arch == ORDER[0]:
        return SHIPPED, f'{SHIPPED}, which is in the package'
    name = f'hatnet://{arch}'
    if is_reachable(name):
        return name, f"{name}, the authors' of ImageNet"
    why = f'since {name} cannot be downloaded'
    return '', f'random (mmhatnet.FanOutInit), {why}'


def _choose_size(found: Found) -> tuple[int, str]:
    """Choose the size from the median image, and say why."""
    classifies = found.task == 'classification'
    name, side = ('shorter', min) if classifies else ('longer', max)
    sizes = [x.size for x in found.splits['train'] if any(x.size)]
    typical = round(median(map(side, sizes)))
    least, most = TASKS[found.task].sizes
    size = min(most, max(least, 32 * ceil(typical / 32)))
    why = f'as the median {name} side is {typical} pixels'
    return 32 if classifies and typical <= SMALL else size, why


def _small_objects(found: Found) -> float:
    """The size of small objects, in shares of the longer side."""
    objects = [
        sqrt((box.right - box.left) * (box.bottom - box.top))
        / max(sample.size)
        for sample in found.splits['train']
        for box in sample.boxes
    ]
    return quantiles(objects, n=10)[0] if len(objects) > 1 else 0.1


def _with_grids(plan: Plan, options: Mapping) -> Plan:
    """Set G1 and G2 for the size of the images, unless the user has."""
    side = plan.size // (2 if plan.small else 4)
    # Fixed numbers, which an export and a page with sliders need.
    auto = [cell_side('auto', side >> i, side >> i) for i in (0, 1, 2)]
    g1, g2 = options.get('g1'), options.get('g2')
    plan.grid_sizes = tuple(g1 or ((8, 4, 4) if plan.small else (8, 8, 8)))
    plan.ds_ratios = tuple(g2 or auto)
    why = 'as asked' if g1 or g2 else 'about 7x7 pooled tokens'
    shown = f'{plan.grid_sizes} and {plan.ds_ratios}'
    plan.reasons['G1, G2'] = f'{shown}, {why}'
    return plan


def fit_to_budget(
    plan: Plan,
    seconds: float,
    measure: Callable[[Plan], float],
    options: Mapping,
) -> Plan:
    """Choose the size of the images and of the model.

    The seconds are those of the training with its evaluations; ``measure``
    gives those of a step.
    """
    least, few = plan.about.sizes[0], plan.about.epochs[0]
    wanted = max(SHORTEST, few * plan.images / plan.batch_size)
    longest = SHARE * seconds / wanted  # of a step
    plan.step = measure(plan)
    while plan.step > longest and not options.get('size'):
        factor = max(0.5, sqrt(longest / plan.step))
        size = max(least, 32 * int(plan.size * factor / 32))
        if size >= plan.size:
            break
        plan = _with_grids(replace(plan, size=size), options)
        plan.step = measure(plan)
        plan.reasons['image size'] = f'{size}, which fits the budget'
    if not options.get('arch') and not options.get('weights'):
        plan, why = _enlarge(plan, longest / 2, measure)
        plan.reasons['backbone'] = f'HAT-Net {plan.arch}, {why}'
    return plan


def _enlarge(
    plan: Plan, seconds: float, measure: Callable[[Plan], float]
) -> tuple[Plan, str]:
    """Take larger models while their steps take no longer than this."""
    for arch in ORDER[1:]:
        if not is_reachable(f'hatnet://{arch}'):
            return plan, 'since larger weights cannot be downloaded'
        start, why = find_start(arch)
        larger = replace(plan, arch=arch, start=start)
        larger.step = measure(larger)
        if larger.step > seconds:
            return plan, f'as {arch} would take too long'
        plan = larger
        plan.reasons['start weights'] = why
    return plan, 'the largest'


def schedule(plan: Plan, seconds: float, iters: int | None = None) -> Plan:
    """Choose the number of steps, unless the user has, and evaluations."""
    many = plan.about.epochs[1] * plan.images / plan.batch_size
    most = round(max(SHORTEST * 10, many))
    each = plan.evaluation
    plan.evaluations = int(max(1, min(10, 0.2 * seconds / each)))
    left = max(seconds / 2, seconds - plan.evaluations * each)
    allowed = max(1, round(0.9 * left / plan.step))
    plan.iters = iters or min(allowed, most)
    why = 'which the budget allows' if allowed <= most else 'enough to learn'
    if allowed < SHORTEST:
        why += ', too few to learn much: give a larger --budget'
    epochs = plan.iters * plan.batch_size / plan.images
    plan.reasons['schedule'] = (
        f'{counted(plan.iters, "step")} of {1000 * plan.step:.0f} ms, or '
        f'{epochs:.3g} epochs, {"as asked" if iters else why}'
    )
    return plan
