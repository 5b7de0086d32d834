"""The choices of a training: the model, its size and its schedule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil, sqrt
from random import Random
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..models.archs import ARCHS
from ..models.windows import cell_side
from ..weights.releases import RELEASES, locate_weights

if TYPE_CHECKING:
    from .found import Found, Sample

BOXES = 'detection', 'instances'
SHIPPED = 'hatnet://cifar10-classifier'  # the backbone in the package
ORDER = 'micro', *RELEASES  # from small to large
MODELS = dict(
    classification='a classifier',
    segmentation='Semantic FPN',
    detection='RetinaNet',
    instances='Mask R-CNN',
)
# Task -> the metric that chooses the best checkpoint, its name, and the
# smallest gain that counts.
METRICS = dict(
    classification=('accuracy/top1', 'accuracy (%)', 0.1),
    segmentation=('mIoU', 'mIoU (%)', 0.1),
    detection=('coco/bbox_mAP', 'box AP (0 to 1)', 0.001),
    instances=('coco/segm_mAP', 'mask AP (0 to 1)', 0.001),
)
# Task -> pixels, the smallest and the largest.
SIZES = dict(
    classification=(64, 224),
    segmentation=(128, 512),
    detection=(192, 640),
    instances=(192, 640),
)
# Task -> passes over the data that a training should make, at least and at
# most.
EPOCHS = dict(
    classification=(15, 100),
    segmentation=(30, 150),
    detection=(20, 100),
    instances=(15, 100),
)
BATCHES = dict(segmentation=8, detection=4, instances=4)
# Task -> the batch size of the learning rate in our configs.
BASE_BATCHES = dict(
    classification=256, segmentation=8, detection=4, instances=4
)
LR = 4e-3  # of these configs, for Muon
LR_ADAMW = 5e-4
SMALL = 48  # pixels: the stem then halves the image only once, as for CIFAR-10
SHORTEST = 100  # iterations that a model needs in any case
SHARE = 0.7  # of the time of a training, without its evaluations
SAMPLED = 200  # images whose size is read


@dataclass
class Plan:
    """What will be trained, and why.

    Attributes:
        task (str): 'classification', 'segmentation', 'detection' or
            'instances'.
        classes (list[str]): Names of the classes.
        images (int): Images of the training split.
        evaluated (int): Images of the validation split.
        arch (str): Size of HAT-Net, 'micro' to 'large'.
        start (str): Start weights; empty for a random start.
        size (int): Side of the images in pixels: of a classifier the shorter
            one, else the longer one.
        object_size (float): A tenth of the objects is smaller, in shares of
            the longer side.
        batch_size (int): Images of a step.
        lr (float): The learning rate at its peak.
        grid_sizes (tuple[int, ...]): G1.
        ds_ratios (tuple[int, ...]): G2.
        iters (int): Steps.
        evaluations (int): Evaluations during the training.
        step (float): Seconds of a step, as measured here; 0 before.
        seed (int): Seed of the training.
        reasons (dict[str, str]): Choice -> its value and its reason.
    """

    task: str
    classes: list[str]
    images: int
    evaluated: int
    arch: str
    start: str
    size: int
    object_size: float
    batch_size: int
    lr: float
    grid_sizes: tuple[int, ...] = (8, 8, 8)
    ds_ratios: tuple[int, ...] = (8, 4, 2)
    iters: int = SHORTEST
    evaluations: int = 1
    step: float = 0.0
    seed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def small(self) -> bool:
        """Whether the images are as small as those of CIFAR-10."""
        return self.task == 'classification' and self.size <= SMALL

    @property
    def epochs(self) -> float:
        """How often the training sees each image."""
        return self.iters * self.batch_size / self.images


def choose(found: 'Found', options: Mapping) -> Plan:
    """Choose what the data alone decide.

    Args:
        found (Found): The user's data.
        options (Mapping): What the user has chosen: ``arch``, ``weights``
            ('none' for a random start), ``size``, ``batch_size``, ``lr``,
            ``g1``, ``g2``, ``iters`` and ``seed``; None or absent otherwise.

    Returns:
        Plan: The plan, for the smallest model, without a schedule.

    Raises:
        OSError: If the weights that the user chose cannot be read.
    """
    train, val = found.splits['train'], found.splits['val']
    start, why_start = find_start(
        options.get('arch') or ORDER[0], options.get('weights')
    )
    size, why_size = _choose_size(found.task, train)
    batch = min(len(train), BATCHES.get(found.task, 64))
    if found.task == 'classification' and len(train) < 1000:
        batch = min(len(train), 32 if len(train) >= 300 else 16)
    plan = Plan(
        task=found.task,
        classes=list(found.classes),
        images=len(train),
        evaluated=len(val),
        arch=options.get('arch') or ORDER[0],
        start=start,
        size=options.get('size') or size,
        object_size=_small_objects(train),
        batch_size=options.get('batch_size') or batch,
        lr=options.get('lr') or 0.0,
        seed=options.get('seed') or 0,
    )
    if not plan.lr:
        plan.lr = scaled_lr(plan)
    asked = {key: 'as asked' for key, value in options.items() if value}
    why_lr = asked.get('lr', 'by the rule for the batch size')
    why_batch = asked.get('batch_size', f'for {plan.images} images')
    plan.reasons |= {
        'model': f'{MODELS[plan.task]} for {len(plan.classes)} classes',
        'backbone': f'HAT-Net {plan.arch}',
        'start weights': why_start,
        'image size': f'{plan.size}, {asked.get("size", why_size)}',
        'batch size': f'{plan.batch_size}, {why_batch}',
        'learning rate': f'{plan.lr:.2g}, {why_lr}',
    }
    return with_grids(plan, options)


def has_muon() -> bool:
    """Whether timm has the optimizer of our configs."""
    try:
        from timm.optim import Muon  # noqa: F401
    except ImportError:
        return False
    return True


def scaled_lr(plan: Plan) -> float:
    """Scale the rate of our configs to a batch size.

    The linear rule gives too little for much smaller batches, so this is
    between that rate and the original one.
    """
    lr = LR if has_muon() else LR_ADAMW
    lr *= sqrt(plan.batch_size / BASE_BATCHES[plan.task])
    return float(f'{lr:.2g}')


@cache
def is_reachable(weights: str) -> bool:
    """Whether weights are here, or can be downloaded."""
    try:
        locate_weights(weights)
    except OSError:
        return False
    return True


def find_start(arch: str, weights: str | None = None) -> tuple[str, str]:
    """Find the weights that a training starts from.

    Args:
        arch (str): The size of HAT-Net.
        weights (str, optional): A file, a URL, ``hatnet://NAME``, or 'none'.
            Defaults to None, the best that can be had.

    Returns:
        tuple[str, str]: The weights, empty for a random start; the reason.

    Raises:
        OSError: If the weights that the user chose cannot be read.
    """
    if weights == 'none':
        return '', 'random (mmhatnet.FanOutInit), as asked'
    if weights:
        locate_weights(weights)
        return weights, f'{weights}, as asked'
    if arch == ORDER[0]:
        return SHIPPED, f'{SHIPPED}, which is in the package'
    if is_reachable(f'hatnet://{arch}'):
        return f'hatnet://{arch}', f"hatnet://{arch}, the authors' of ImageNet"
    return '', (
        f'random (mmhatnet.FanOutInit), since hatnet://{arch} cannot be '
        'downloaded'
    )


def _sample(samples: list['Sample']) -> list[tuple['Sample', tuple[int, int]]]:
    """Draw some samples, and read their width and height."""
    found = []
    for sample in Random(0).sample(samples, min(SAMPLED, len(samples))):
        with Image.open(sample.image) as image:
            found.append((sample, image.size))
    return found


def _choose_size(task: str, samples: list['Sample']) -> tuple[int, str]:
    """Choose the size of the images, and say why."""
    side = min if task == 'classification' else max
    typical = round(median(side(sides) for _, sides in _sample(samples)))
    least, most = SIZES[task]
    if task == 'classification' and typical <= SMALL:
        return 32, f'as half of the images have {typical} pixels or fewer'
    size = min(most, max(least, 32 * ceil(typical / 32)))
    name = 'shorter' if side is min else 'longer'
    return size, f'as the {name} side has {typical} pixels in the middle'


def _small_objects(samples: list['Sample']) -> float:
    """The size of small objects, in shares of the image's longer side."""
    sizes = [
        sqrt(max(0, (right - left) * (bottom - top))) / max(sides)
        for sample, sides in _sample([x for x in samples if x.boxes])
        for left, top, right, bottom, *_ in sample.boxes or ()
    ]
    return quantiles(sizes, n=10)[0] if len(sizes) > 1 else 0.1


def with_grids(plan: Plan, options: Mapping) -> Plan:
    """Set G1 and G2 for the size of the images, unless the user has.

    G2 is as with ``ds_ratios='auto'``, but fixed, so that an export and a
    page with sliders have numbers.
    """
    side = plan.size // (2 if plan.small else 4)
    sides = [side >> stage for stage in (0, 1, 2)]
    auto = [cell_side('auto', each, each) for each in sides]
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

    Args:
        plan (Plan): As from :func:`choose`.
        seconds (float): Time of the training, with its evaluations.
        measure (Callable): Measures the seconds of a step of a plan.
        options (Mapping): As for :func:`choose`; these choices stay.

    Returns:
        Plan: The plan, with the time of a step.
    """
    few, usable = EPOCHS[plan.task][0], SHARE * seconds
    least = SIZES[plan.task][0]
    plan.step = measure(plan)
    wanted = max(SHORTEST, few * plan.images / plan.batch_size)
    while plan.step * wanted > usable and not options.get('size'):
        factor = max(0.5, sqrt(usable / (plan.step * wanted)))
        size = max(least, 32 * int(plan.size * factor / 32))
        if size >= plan.size:
            break
        plan = with_grids(replace(plan, size=size), options)
        plan.step = measure(plan)
        plan.reasons['image size'] = f'{size}, which fits the budget'
    if not options.get('arch') and not options.get('weights'):
        plan = _enlarge(plan, usable / wanted / 2, measure)
    return plan


def schedule(plan: Plan, seconds: float, iters: int | None = None) -> Plan:
    """Choose the number of steps and evaluations.

    Args:
        plan (Plan): The plan, with the time of a step.
        seconds (float): Time of the training, with its evaluations.
        iters (int, optional): Steps that the user has asked for. Defaults to
            None.

    Returns:
        Plan: The complete plan.
    """
    many = EPOCHS[plan.task][1] * plan.images / plan.batch_size
    most = round(max(SHORTEST * 10, many))
    # An image takes about as long as in a step, and a second passes before.
    each = 1 + plan.step / plan.batch_size * plan.evaluated
    plan.evaluations = int(max(1, min(10, 0.2 * seconds / each)))
    left = max(seconds / 2, seconds - plan.evaluations * each)
    allowed = max(1, round(0.9 * left / plan.step))
    plan.iters = iters or min(allowed, most)
    why = 'which the budget allows' if allowed <= most else 'enough to learn'
    plan.reasons['schedule'] = (
        f'{plan.iters} steps of {1000 * plan.step:.0f} ms, '
        f'{plan.epochs:.3g} times all images, {"as asked" if iters else why}'
    )
    return plan


def _enlarge(
    plan: Plan, seconds: float, measure: Callable[[Plan], float]
) -> Plan:
    """Take larger models while their steps take no longer than this."""
    plan.reasons['backbone'] += ', '
    for arch in ORDER[1:]:
        if not is_reachable(f'hatnet://{arch}'):
            plan.reasons['backbone'] += (
                'as weights of larger ones cannot be downloaded'
            )
            return plan
        start, why = find_start(arch)
        larger = replace(plan, arch=arch, start=start)
        larger.step = measure(larger)
        if larger.step > seconds:
            plan.reasons['backbone'] += f'as {arch} would take too long'
            return plan
        plan = larger
        plan.reasons['start weights'] = why
        plan.reasons['backbone'] = f'HAT-Net {arch}, '
    plan.reasons['backbone'] += 'the largest'
    return plan


def widths(arch: str) -> list[int]:
    """Channels of the four stages of a HAT-Net."""
    columns: Mapping[str, Any] = ARCHS[arch]
    return list(columns['embed_dims'])
