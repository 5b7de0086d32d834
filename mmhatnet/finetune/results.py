"""Evaluate a trained model, draw what it finds, and write its files."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..apis.inference import get_inferencer, predict
from ..apis.zoo import get_model
from ..deploy.graphs import make_graph
from ..deploy.writer import export_files
from ..engine.resuming import find_checkpoints, is_intact
from ..engine.runner import build_runner
from ..runtime.images import decode
from ..runtime.results import classification, detection, segmentation
from ..utils.atomic import replacing
from ..weights.files import read_checkpoint, strip_checkpoint
from .plan import BOXES, METRICS, Plan
from .training import prepare

RESULT = 'result.json'
IGNORED = 255  # label of pixels that are not counted
# Whether the task has boxes -> the chart and its file.
CHARTS = {
    False: ('confusion matrix', 'confusion.png'),
    True: ('precision and recall', 'precision_recall.png'),
}
BASELINES = dict(
    classification='always the commonest class',
    segmentation='the commonest class everywhere',
    detection='nothing found',
    instances='nothing found',
)
SHOWN = 6  # images in the picture of predictions
READABLE = 20  # classes whose numbers are written into a confusion matrix
SCORE = 0.3  # lowest of the objects in the picture


class Confusion(BaseMetric):
    """Counts how often each class is taken for each: (truth, prediction).

    For classifiers and segmentors; it has no metric of its own.

    Args:
        classes (int): The number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(prefix='confusion')
        self.counts = np.zeros((classes, classes), np.int64)

    def process(
        self, data_batch: object, data_samples: Sequence[dict]
    ) -> None:
        """Count a batch."""
        for sample in data_samples:
            if 'pred_sem_seg' in sample:
                found = sample['pred_sem_seg']['data']
                truth = sample['gt_sem_seg']['data']
            else:
                found, truth = sample['pred_label'], sample['gt_label']
            self.count(_numbers(truth), _numbers(found))
        self.results.append(len(data_samples))

    def count(self, truth: np.ndarray, found: np.ndarray) -> None:
        """Count labels, (N,) each."""
        classes = len(self.counts)
        counted = truth < classes  # others are ignored
        pairs = classes * truth[counted] + found[counted]
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(
            classes, classes
        )

    def compute_metrics(self, results: list) -> dict:
        """Add nothing."""
        return {}


def _numbers(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().astype(np.int64).ravel()


def find_best(work_dir: Path) -> Path:
    """Find the best checkpoint of a training, or else its last one.

    Args:
        work_dir (Path): The folder of the command.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths = [
        x for x in find_checkpoints(work_dir / 'training') if is_intact(x)
    ]
    best = [path for path in paths if path.name.startswith('best_')]
    if not paths:
        raise FileNotFoundError(
            f'{work_dir} has no checkpoint yet: run the same command again, '
            'or give it a larger --budget'
        )
    return (best or paths)[0]


def evaluate(
    plan: Plan, path: Path, checkpoint: Path
) -> tuple[dict[str, float], float, Figure]:
    """Test a checkpoint.

    Args:
        plan (Plan): The plan.
        path (Path): The config.
        checkpoint (Path): The checkpoint.

    Returns:
        tuple[dict[str, float], float, Figure]: The metrics; the main metric
        of the best constant answer; the confusion matrix or the curve of
        precision and recall.
    """
    cfg = prepare(path, 'test')
    cfg.update(load_from=str(checkpoint), resume=False, custom_hooks=[])
    detects = plan.task in BOXES
    found = path.parent / 'test' / 'found'
    if detects:
        cfg.test_evaluator.outfile_prefix = str(found)
    runner = build_runner(cfg, ('test',))
    confusion = Confusion(len(plan.classes))
    if not detects:
        runner.test_evaluator.metrics.append(confusion)
    metrics = {name: float(value) for name, value in runner.test().items()}
    if detects:
        kind = 'segm' if plan.task == 'instances' else 'bbox'
        truth = str(cfg.test_evaluator.ann_file)
        return metrics, 0.0, draw_curves(truth, f'{found}.{kind}.json', kind)
    figure = draw_confusion(confusion.counts, plan.classes)
    return metrics, constant_answer(plan.task, confusion.counts), figure


def constant_answer(task: str, counts: np.ndarray) -> float:
    """Compute the metric of a model that always gives the commonest class.

    Args:
        task (str): 'classification' or 'segmentation'.
        counts (ndarray): (truth, prediction), as of :class:`Confusion`.

    Returns:
        float: Accuracy or mIoU in percent.
    """
    truth = counts.sum(1)
    share = 100 * truth.max() / max(1, truth.sum())
    # The IoU of every other class that there is would be 0.
    present = max(1, np.count_nonzero(truth))
    return float(share / present if task == 'segmentation' else share)


def draw_confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix, each row as shares of its class.

    Args:
        counts (ndarray): (truth, prediction).
        classes (Sequence[str]): The names.

    Returns:
        Figure: The picture.
    """
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    side = min(14, 3.5 + 0.45 * len(classes))
    figure = Figure(figsize=(side, side), layout='constrained')
    axes = figure.subplots()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    axes.set(xlabel='prediction', ylabel='truth')
    if len(classes) <= 3 * READABLE:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= READABLE:
        for row, column in np.ndindex(shares.shape):
            share = shares[row, column]
            axes.text(
                column,
                row,
                f'{100 * share:.0f}',
                ha='center',
                va='center',
                fontsize=8,
                color='white' if share > 0.5 else 'black',
            )
    axes.set_title('percent of each class')
    return figure


def draw_curves(truth: str, found: str, kind: str) -> Figure:
    """Draw precision over recall at an IoU of 0.5.

    Args:
        truth (str): COCO's JSON of the annotations.
        found (str): COCO's JSON of the results; need not exist.
        kind (str): 'bbox' or 'segm'.

    Returns:
        Figure: The picture, a curve for each class, at most READABLE.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    figure = Figure(figsize=(6, 5), layout='constrained')
    axes = figure.subplots()
    axes.set(xlabel='recall', ylabel='precision at IoU 0.5')
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    results = (
        json.loads(Path(found).read_bytes()) if Path(found).exists() else []
    )
    if not results:
        axes.set_title('nothing was found')
        return figure
    data = COCO(truth)
    scores = COCOeval(data, data.loadRes(results), kind)
    scores.params.iouThrs = np.array([0.5])
    scores.evaluate()
    scores.accumulate()
    # (IoU, recall, class, area, objects of an image)
    curves = scores.eval['precision'][0, :, :, 0, -1]
    for column, label in enumerate(scores.params.catIds[:READABLE]):
        if curves[:, column].max() >= 0:
            name = data.cats[label]['name']
            average = curves[:, column].clip(0).mean()
            axes.plot(
                scores.params.recThrs,
                curves[:, column],
                label=f'{name} (AP50 {average:.2f})',
            )
    axes.legend(fontsize=8)
    return figure


def draw_predictions(
    cfg: Config, checkpoint: Path
) -> tuple[Figure, list[str]]:
    """Draw images of the test data, each prediction beside the truth.

    Args:
        cfg (Config): The config.
        checkpoint (Path): The checkpoint.

    Returns:
        tuple[Figure, list[str]]: The picture, and the files of its images.
    """
    inferencer = get_inferencer(cfg, str(checkpoint))
    meta = inferencer.model.dataset_meta
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        settings = dict(cfg.test_dataloader.dataset)
        # Without the steps that change sizes, the truth fits the image.
        settings['pipeline'] = [
            step
            for step in settings['pipeline']
            if 'Resize' not in step['type'] and 'Crop' not in step['type']
        ]
        if cfg.default_scope == 'mmdet':
            settings['pipeline'][-1] = dict(
                type='PackDetInputs', meta_keys=('img_id', 'img_path')
            )
        dataset = DATASETS.build(settings)
        chosen = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset)))
        samples = [dataset[int(i)]['data_samples'] for i in chosen]
    rows = -(-len(samples) // 2)
    figure = Figure(figsize=(13, 3.4 * rows), layout='constrained', dpi=100)
    axes = figure.subplots(rows, 4, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for sample, panels in zip(samples, axes.reshape(-1, 2), strict=False):
        found = predict(inferencer, sample.img_path, SCORE, 3)[1]
        truth = draw_truth(sample, meta)
        for axis, title, picture in zip(
            panels, ('prediction', 'truth'), (found, truth), strict=True
        ):
            if picture is not None:
                axis.imshow(picture)
            axis.set_title(title, fontsize=9)
    return figure, [sample.img_path for sample in samples]


def draw_truth(sample: BaseDataElement, meta: dict) -> np.ndarray | None:
    """Draw the labels of an image as predictions are drawn.

    Args:
        sample (BaseDataElement): A sample of mm, of any task.
        meta (dict): ``classes``, and maybe ``palette``.

    Returns:
        ndarray, optional: (H, W, 3), RGB; None if the image has other
        channels.
    """
    image, classes = decode(sample.img_path), meta['classes']
    palette = meta.get('palette') or ()
    if 'gt_label' in sample:
        scores = [0.0] * len(classes)
        scores[int(sample.gt_label)] = 1.0
        return classification(image, scores, classes, 1)[1]
    if 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.data[0].numpy().astype(np.uint8)
        return segmentation(image, labels, classes, palette)[1]
    objects = sample.gt_instances
    masks = None
    if 'masks' in objects:
        masks = iter(objects.masks.masks.astype(bool))
    boxes = getattr(objects.bboxes, 'tensor', objects.bboxes).numpy()
    labels = objects.labels.numpy()
    ones = np.ones(len(boxes))
    return detection(image, boxes, ones, labels, masks, classes, palette)[1]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture, complete or not at all."""
    with replacing(path) as part:
        figure.savefig(part, format='png')


def publish(checkpoint: Path, path: Path) -> None:
    """Write the weights of a checkpoint without the state of the training."""
    content = strip_checkpoint(read_checkpoint(checkpoint))
    with replacing(path) as part:
        torch.save(content, part)


def export(cfg: Config, checkpoint: Path, path: Path) -> str:
    """Export a model for images of any size.

    Args:
        cfg (Config): The config.
        checkpoint (Path): The weights.
        path (Path): The ONNX file.

    Returns:
        str: Why there is no file; empty if there is one.
    """
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            graph = make_graph(get_model(cfg, str(checkpoint)))
            export_files(graph, cfg, str(checkpoint), path)
    except (ImportError, ValueError) as error:
        return f'{error!s:.300}'
    return ''


def write_result(result: dict, work_dir: Path) -> None:
    """Write ``result.json``.

    Args:
        result (dict): Plain data.
        work_dir (Path): The folder.
    """
    with replacing(work_dir / RESULT) as part:
        text = json.dumps(result, indent=1, ensure_ascii=False)
        part.write_text(text + '\n', 'utf-8')


def read_result(work_dir: Path) -> dict:
    """Read ``result.json``; empty if there is none, or a damaged one."""
    try:
        found = json.loads((work_dir / RESULT).read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(result: dict, work_dir: Path) -> Iterator[str]:
    """Say what came out, in the lines of the last screen.

    Args:
        result (dict): As written by :func:`write_result`.
        work_dir (Path): Its folder.

    Yields:
        str: A line.
    """
    _, name, _ = METRICS[result['task']]
    count = f'{result["images"][result["split"]]} images'
    if result['split'] == 'val':
        count += ', which also chose the checkpoint'
    yield f'{name} on {count}: {result["metric"]:.3g}'
    yield f'{BASELINES[result["task"]]}: {result["baseline"]:.3g}'
    more = {'coco/bbox_mAP_50': 'box AP50', 'coco/segm_mAP_50': 'mask AP50'}
    for key, title in more.items():
        if key in result['metrics']:
            yield f'{title}: {result["metrics"][key]:.3g}'
    if result['ended']:
        steps = f'{result["steps"]} of {result["plan"]["iters"]} steps'
        yield f'the training ended after {steps}: {result["ended"]}'
    places = [work_dir / name for name in ('predictions.png', result['chart'])]
    yield f'predictions beside the truth: {places[0]}'
    yield f'{result["chart_name"]}: {places[1]}'
    yield f'weights: {work_dir / "model.pth"}; numbers: {work_dir / RESULT}'
    if result['export']:
        yield f'there is no ONNX file: {result["export"]}'
    else:
        yield 'predict, without torch:'
        onnx = quote(str(work_dir / 'model.onnx'))
        yield f'  python tools/infer.py {onnx} PHOTO.jpg'
    yield 'train it again, after changes of the config:'
    yield f'  python tools/train.py {quote(str(work_dir / "config.py"))}'
    yield 'explore it:'
    yield f'  python tools/demo_app.py {quote(str(work_dir))}'
