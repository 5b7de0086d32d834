"""Evaluate an exported file with the data and the metric of a config."""

import copy
import os
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from ..engine.runner import build_runner, end_workers
from ..runtime import OnnxModel
from ..runtime.arrays import paste
from .graphs import LIBRARIES


def evaluate_exported(
    cfg: Config, path: str | os.PathLike | OnnxModel
) -> dict[str, float]:
    """Test an exported file as ``tools/test.py`` tests a checkpoint.

    Args:
        cfg (Config): The config of the file, with a ``work_dir``.
        path (str | PathLike | OnnxModel): The ONNX file.

    Returns:
        dict[str, float]: The metrics.

    Raises:
        FileNotFoundError: If the data or the file do not exist.
        ValueError: If the file cannot be read, does another task, or has
            other classes.
    """
    exported = path if isinstance(path, OnnxModel) else OnnxModel(path)
    kind = exported.metadata['kind']
    if LIBRARIES[kind][0] != cfg.default_scope:
        raise ValueError(
            f'{path} does {kind}, and the config is for {cfg.default_scope}'
        )
    # Hooks may copy or average weights, which the file does not show.
    cfg = copy.deepcopy(cfg)
    cfg.update(load_from=None, resume=False, custom_hooks=[])
    runner = build_runner(cfg, ('test',))
    runner.model = ExportedModel(exported)
    # Some data sets take their classes from the names of folders.
    classes = runner.test_loop.dataloader.dataset.metainfo.get('classes') or ()
    found = exported.metadata['classes']
    if found and classes and found != list(classes):
        raise ValueError(
            f'{path} has {len(found)} classes, {found[0]}, ..., and not the '
            f'{len(classes)} of the test data, {classes[0]}, ...'
        )
    metrics = {name: float(value) for name, value in runner.test().items()}
    end_workers(runner)
    return metrics


class ExportedModel(nn.Module):
    """An exported file that stands in for a model of mm, for tests."""

    def __init__(self, exported: OnnxModel) -> None:
        super().__init__()
        self.exported = exported

    def test_step(self, data: dict) -> list[BaseDataElement]:
        """Predict for a batch of a data loader of mm."""
        metadata, samples = self.exported.metadata, data['data_samples']
        add = ADDING.get(metadata['kind'], _add_objects)
        for image, sample in zip(data['inputs'], samples, strict=True):
            image = image.flip(0) if metadata['channels'] == 'RGB' else image
            add(sample, *self.exported.run(image[None].float().numpy()))
        return samples


def _add_scores(sample: BaseDataElement, scores: np.ndarray) -> None:
    scores = torch.from_numpy(scores[0])
    sample.set_pred_score(scores).set_pred_label(scores.argmax())


def _add_labels(
    sample: BaseDataElement,
    labels: np.ndarray,  # noqa: ARG001 (at the size of the input)
    logits: np.ndarray,
) -> None:
    values, shape = torch.from_numpy(logits), sample.ori_shape[:2]
    resized = F.interpolate(values, size=shape, mode='bilinear')
    sample.pred_sem_seg = PixelData(data=resized.argmax(1))


def _add_objects(
    sample: BaseDataElement,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray | None = None,
) -> None:
    boxes /= np.array([*sample.scale_factor] * 2, np.float32)
    found = dict(bboxes=boxes, scores=scores, labels=labels)
    if masks is not None:
        shape = sample.ori_shape[:2]
        pasted = map(paste, masks, boxes, [shape] * len(boxes))
        found['masks'] = np.array(list(pasted)).reshape(-1, *shape)
    tensors = {key: torch.tensor(value) for key, value in found.items()}
    sample.pred_instances = InstanceData(**tensors)


ADDING: dict[str, Callable] = dict(
    classification=_add_scores, segmentation=_add_labels
)
