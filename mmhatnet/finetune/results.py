"""Evaluate a trained model, draw what it finds, and write its files."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric

from ..apis.inference import get_inferencer, predict
from ..apis.zoo import get_model
from ..deploy.graphs import make_graph
from ..deploy.writer import export_files
from ..engine.resuming import find_checkpoints, is_intact
from ..engine.runner import build_runner, end_workers
from ..runtime.images import unreadable
from ..utils.atomic import replacing
from ..weights.files import read_checkpoint, strip_checkpoint
from .pictures import choose_examples, draw_grid, draw_labels, save_figure
from .plan import TASKS, Plan
from .samples import Found, counted
from .training import INTERRUPTED, prepare

RESULT, WEIGHTS = 'result.json', 'model.pth'
NOT_ASKED = '--no-export was given'
SCORE = 0.3  # lowest of the objects in pictures
SHOWN = 6  # images in the picture of predictions
READABLE = 20  # classes whose numbers are written into a confusion matrix


class Confusion(BaseMetric):
    """Counts how often each class is taken for each other."""

    def __init__(self, classes: int) -> None:
        super().__init__(prefix='confusion')
        self.counts = np.zeros((classes, classes), np.int64)

    def process(self, _: object, data_samples: Sequence[dict]) -> None:
        """Count the labels of a batch."""
        for sample in data_samples:
            self.results.append(1)
            if 'gt_label' in sample:
                self.count(sample['gt_label'], sample['pred_label'])
            else:
                names = 'gt_sem_seg', 'pred_sem_seg'
                self.count(*(sample[name]['data'] for name in names))

    def count(self, truth: torch.Tensor, found: torch.Tensor) -> None:
        """Count labels; those beyond the classes are ignored."""
        classes = len(self.counts)
        inside = truth < classes
        pairs = classes * truth[inside].long() + found[inside].long()
        counts = torch.bincount(pairs.ravel().cpu(), minlength=classes**2)
        self.counts += counts.reshape(classes, classes).numpy()

    def compute_metrics(self, results: list) -> dict:
        """Return no metrics; the counts are what is needed."""
        return {}


def write_weights(work_dir: Path) -> Path:
    """Write the best weights, without the state of the training.

    FileNotFoundError if there is no checkpoint.
    """
    weights = work_dir / WEIGHTS
    with replacing(weights) as part:
        best = read_checkpoint(_find_best(work_dir))
        torch.save(strip_checkpoint(best), part)
    return weights


def finish(
    found: Found,
    plan: Plan,
    work_dir: Path,
    say: Callable[[str], None],
    exports: bool = True,
) -> dict:
    """Evaluate the weights, draw, export; what belongs into the result."""
    weights, config = work_dir / WEIGHTS, work_dir / 'config.py'
    say('evaluating, and drawing predictions')
    metrics, baseline, chart = _evaluate(plan, config, weights)
    split = [*found.splits][-1]
    examples = choose_examples(found.splits[split], SHOWN)
    model = get_inferencer(prepare(config), str(weights))
    pictures = []
    for sample in examples:
        # Not every image of a large data set was decoded before.
        damaged = unreadable(sample.image)
        prediction = (
            None if damaged else predict(model, sample.image, SCORE, 3)[1]
        )
        pictures += [prediction, draw_labels(found, sample)]
    shown = (
        f'prediction, scores from {SCORE}' if plan.detects else 'prediction'
    )
    grid = draw_grid(pictures, [shown, 'truth'])
    save_figure(grid, work_dir / 'predictions.png')
    why = NOT_ASKED
    if exports:
        say('exporting to ONNX (may take minutes)')
        why = _export(config, weights)
    return dict(
        task=plan.task,
        metric_name=plan.about.metric,
        metric=metrics.get(plan.about.metric, 0.0),  # absent without a box
        baseline=baseline,
        metrics=metrics,
        checkpoint=_find_best(work_dir).name,
        chart=chart,
        export=why,
        split=split,
        images={name: len(part) for name, part in found.splits.items()},
        examples=[str(sample.image.absolute()) for sample in examples],
    )


def _evaluate(
    plan: Plan, config: Path, weights: Path
) -> tuple[dict[str, float], float, str]:
    """Evaluate, and draw a chart: the metrics, the baseline, the chart."""
    cfg = prepare(config, 'test')
    cfg.update(load_from=str(weights), resume=False, custom_hooks=[])
    boxes = Path(cfg.work_dir, 'found')
    if plan.detects:
        cfg.test_evaluator.outfile_prefix = str(boxes)
    runner = build_runner(cfg, ('test',))
    confusion = Confusion(len(plan.classes))
    if not plan.detects:
        runner.test_evaluator.metrics.append(confusion)
    metrics = {name: float(value) for name, value in runner.test().items()}
    end_workers(runner)
    if plan.detects:
        kind = 'segm' if plan.task == 'instances' else 'bbox'
        truth = cfg.test_evaluator.ann_file
        figure = draw_curves(truth, Path(f'{boxes}.{kind}.json'), kind)
        chart, baseline = 'precision_recall.png', 0.0
    else:
        figure = draw_confusion(confusion.counts, plan.classes)
        baseline = constant_answer(plan.task, confusion.counts)
        chart = 'confusion.png'
    save_figure(figure, config.with_name(chart))
    return metrics, baseline, chart


def _find_best(work_dir: Path) -> Path:
    """Find the best checkpoint of a training, or else its last one."""
    paths = filter(is_intact, find_checkpoints(work_dir / 'training'))
    ranked = sorted(paths, key=lambda x: not x.name.startswith('best_'))
    if not ranked:
        raise FileNotFoundError(
            f'{work_dir} has no checkpoint yet: run the same command again, '
            'or give it a larger --budget'
        )
    return ranked[0]


def constant_answer(task: str, counts: np.ndarray) -> float:
    """Compute the accuracy or mIoU (%) of always answering one class.

    It is the commonest class of the tested images: no other one is better.
    """
    truth = counts.sum(1)
    share = 100 * truth.max() / max(1, truth.sum())
    # The IoU of every other class that there is would be 0.
    present = max(1, np.count_nonzero(truth))
    return float(share / present if task == 'segmentation' else share)


def draw_confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw counts of (truth, prediction), each row as shares of its class."""
    total = counts.sum(1, keepdims=True)
    # Rows of classes without a tested image stay white.
    percent = np.where(total, 100 * counts / np.maximum(1, total), np.nan)
    side = min(14, 3.5 + 0.45 * len(classes))
    figure = Figure((side, side), layout='constrained')
    axes = figure.subplots()
    axes.imshow(percent, 'Blues', vmin=0, vmax=100)
    axes.set(xlabel='prediction', ylabel='truth', title='% of each class')
    if len(classes) <= 3 * READABLE:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= READABLE:
        for (row, column), value in np.ndenumerate(percent):
            if np.isnan(value):
                continue
            text = axes.text(column, row, f'{value:.0f}', ha='center')
            text.set(va='center', color='white' if value > 50 else 'black')
    return figure


def draw_curves(truth: str, found: Path, kind: str) -> Figure:
    """Draw precision over recall at an IoU of 0.5.

    It shows the first classes that the truth has, up to READABLE.

    Args:
        truth (str): COCO JSON of the labels.
        found (Path): COCO JSON of the predictions, which need not exist.
        kind (str): 'bbox' or 'segm', what is compared.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    figure = Figure((6, 5), layout='constrained')
    axes = figure.subplots()
    axes.axis((0, 1, 0, 1.02))
    axes.set(xlabel='recall', ylabel='precision at IoU 0.5')
    results = json.loads(found.read_bytes()) if found.exists() else []
    if not results:
        axes.set_title('nothing was found')
        return figure
    data = COCO(truth)
    scores = COCOeval(data, data.loadRes(results), kind)
    scores.params.iouThrs = np.array([0.5])
    scores.evaluate()
    scores.accumulate()
    # (IoU, recall, class, area, most objects of an image)
    curves = scores.eval['precision'][0, :, :, 0, -1].T
    for label, curve in zip(scores.params.catIds, curves, strict=True):
        if curve.max() >= 0 and len(axes.lines) < READABLE:
            name, ap = data.cats[label]['name'], curve.clip(0).mean()
            text = f'{name} (AP50 {ap:.2f})'
            axes.plot(scores.params.recThrs, curve, label=text)
    axes.legend(fontsize=8)
    return figure


def _export(config: Path, weights: Path) -> str:
    """Export a model for images of any size, or return why it cannot be."""
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            cfg = prepare(config)
            graph = make_graph(get_model(cfg, str(weights)))
            path = config.with_name('model.onnx')
            export_files(graph, cfg, str(weights), path)
    except (ImportError, ValueError) as error:
        return f'{error!s:.300}'
    except KeyboardInterrupt:  # all other results are there
        return INTERRUPTED
    return ''


def read_result(work_dir: Path) -> dict:
    """Read ``result.json``; empty if there is none, or a damaged one."""
    try:
        found = json.loads((work_dir / RESULT).read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(result: dict, work_dir: Path) -> Iterator[str]:
    """Summarize the result in the lines of the last screen."""
    about = TASKS[result['task']]
    images = counted(result['images'][result['split']], 'image')
    if result['split'] == 'val':
        images += ', which also chose the checkpoint'
    yield f'{about.title} on {images}: {result["metric"]:.3g}'
    yield f'for comparison, {about.trivial}: {result["baseline"]:.3g}'
    for key in ('coco/bbox_mAP_50', 'coco/segm_mAP_50'):
        if key in result['metrics']:
            kind = 'box' if 'bbox' in key else 'mask'
            yield f'{kind} AP50: {result["metrics"][key]:.3g}'
    if result['ended']:
        steps = f'{result["steps"]} of {result["plan"]["iters"]} steps'
        yield f'the training ended after {steps}: {result["ended"]}'
    yield f'predictions beside the truth: {work_dir / "predictions.png"}'
    yield f'{about.chart}: {work_dir / result["chart"]}'
    yield f'weights: {work_dir / WEIGHTS}; numbers: {work_dir / RESULT}'
    config, weights = (
        quote(str(work_dir / name)) for name in ('config.py', WEIGHTS)
    )
    if result['export']:
        yield f'there is no ONNX file: {result["export"]}'
        yield 'predict:'
        yield f'  python tools/infer.py {config} {weights} PHOTO.jpg'
    else:
        onnx = quote(str(work_dir / 'model.onnx'))
        yield 'predict, without torch:'
        yield f'  python tools/infer.py {onnx} PHOTO.jpg'
    yield 'train it again, after changes of the config:'
    again = quote(str(work_dir / 'again'))
    yield f'  python tools/train.py {config} --work-dir {again}'
    yield 'explore it:'
    yield f'  python tools/demo_app.py {quote(str(work_dir))}'
