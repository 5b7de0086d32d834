"""Predictions for images by models of any task.

``tools/infer.py`` is a command over this module.
"""

import os
import warnings

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.registry import TRANSFORMS, DefaultScope
from mmengine.structures import InstanceData

from ..runtime.images import decode, unreadable
from ..runtime.results import Result, classification, detection, segmentation
from ..utils.device import find_device
from ..utils.stack import (
    OPTIONAL,
    explain_missing_operators,
    one_thread_at_a_time,
)
from ..weights.loading import load_weights
from .zoo import (
    dataset_meta,
    find_test_dataset,
    find_weights,
    get_model,
    load_model_config,
)

LONGEST = 1000  # times the shorter side of an image of a classifier


@one_thread_at_a_time()
@explain_missing_operators()
def get_inferencer(
    model: str | os.PathLike | Config,
    checkpoint: str | None = None,
    device: str | None = None,
) -> BaseInferencer:
    """Get the library's own inferencer for one of our models.

    Args:
        model (str | PathLike | Config): Its name, a config file or a config.
        checkpoint (str, optional): A file, a URL or ``hatnet://NAME``, read
            without running code that it may contain. Defaults to None, the
            released weights.
        device (str, optional): The device to run on. Defaults to None, a GPU
            if available.

    Returns:
        ImageClassificationInferencer | MMSegInferencer | DetInferencer: See
        the documentation of mmpretrain, mmsegmentation or mmdet.

    Raises:
        FileNotFoundError: If a file does not exist.
        ImportError: If a detector lacks mmcv's operators.
        ValueError: If the name is unknown, there is no such device, the model
            has no released weights, the weights do not fit, or the config has
            no ``default_scope``.
    """
    device = str(find_device(device or get_device()))
    cfg = load_model_config(model)
    if cfg.get('default_scope') not in OPTIONAL:
        raise ValueError(
            'predictions need default_scope in the config: one of '
            + ', '.join(OPTIONAL)
        )
    checkpoint = checkpoint or find_weights(model)
    # The libraries do not look into a ConcatDataset.
    cfg.test_dataloader.dataset = find_test_dataset(cfg)
    # The libraries set the default scope for good; restore it afterwards.
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return _build(cfg, checkpoint, device)


def _build(cfg: Config, checkpoint: str, device: str) -> BaseInferencer:
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer

        built = get_model(cfg, checkpoint, device)
        classes = built.dataset_meta.get('classes')
        return ImageClassificationInferencer(built, classes=classes)
    if cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        from mmdet.apis import DetInferencer as Inferencer
    meta = dataset_meta(cfg)
    with warnings.catch_warnings():
        # Ignore warnings about random weights and classes, both set below.
        warnings.simplefilter('ignore')
        made = Inferencer(cfg, device=device)
    # Not all versions have this as an argument.
    made.show_progress = False
    meta.update(load_weights(made.model, checkpoint))
    # mmseg's visualizer accepts no other keys.
    known = {key: meta[key] for key in ('classes', 'palette') if key in meta}
    made.model.dataset_meta.update(known)
    made.visualizer.dataset_meta = made.model.dataset_meta
    return made


@one_thread_at_a_time()
def predict(
    inferencer: BaseInferencer,
    path: str | os.PathLike | np.ndarray,
    score_thr: float = 0.3,
    top: int = 5,
) -> Result:
    """Predict for one image.

    Threads can share an inferencer; they predict one after the other.

    Args:
        inferencer (BaseInferencer): The result of :func:`get_inferencer`.
        path (str | PathLike | ndarray): The image, a file or (H, W, 3), BGR,
            8 bits.
        score_thr (float): Lowest score of a detected object. Defaults to 0.3.
        top (int): Number of classes of a classifier. Defaults to 5.

    Returns:
        tuple[dict, ndarray | None, ndarray | None]: The result, ready for
        JSON, as in docs/inference.md: ``classes``, the best or largest first,
        or ``objects``, the best first. Its picture, RGB, 8 bits (enlarged if
        the image is small), or None if the image cannot be shown in three
        channels. And for a segmentor the label of each pixel, (H, W).

    Raises:
        ValueError: If the image cannot be read.
    """
    model = inferencer.model
    if isinstance(path, np.ndarray):
        shown: np.ndarray | None = path
    elif reason := unreadable(path):
        raise ValueError(f'{path}: {reason}')
    else:
        path, shown = str(path), decode(path)
    image = load_image(model.cfg, path)
    palette = model.dataset_meta.get('palette')
    # The libraries also accept the name of one.
    known = palette if isinstance(palette, list | tuple) else ()
    names = model.dataset_meta.get('classes') or (), known
    if model.cfg.default_scope == 'mmpretrain':
        scores = _classify(inferencer, image)
        return classification(shown, scores, names[0], top)
    if model.cfg.default_scope == 'mmseg':
        sample = inferencer(image, return_datasamples=True)
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        return segmentation(shown, labels, *names)
    (sample,) = inferencer(image, return_datasamples=True)['predictions']
    if shown is not None and shown.shape[:2] != sample.ori_shape:
        shown = None  # OpenCV may read another image of the file
    found = _objects(sample.pred_instances, score_thr)
    masks = iter(found.masks) if 'masks' in found else None
    objects = found.bboxes, found.scores, found.labels, masks
    return detection(shown, *objects, *names)


def _classify(inferencer: BaseInferencer, image: np.ndarray) -> list[float]:
    """The score of each class."""
    h, w = image.shape[:2]
    if max(h, w) > LONGEST * min(h, w):  # pipelines enlarge the shorter side
        raise ValueError(
            f'{w}x{h} pixels: a side may be {LONGEST} times as long as the '
            'other; crop the image first'
        )
    # Calling the inferencer would display a progress bar for each image.
    (batch,) = inferencer.preprocess([image])
    (sample,) = inferencer.forward(batch)
    return sample.pred_score.tolist()


def load_image(cfg: Config, path: str | np.ndarray) -> np.ndarray:
    """Load an image, (H, W, channels), as the test pipeline of a config does.

    Args:
        cfg (Config): The config.
        path (str | ndarray): The image, a file or (H, W, 3), BGR.
    """
    loader = find_test_dataset(cfg).pipeline[0]
    if isinstance(path, np.ndarray):
        if path.shape[2] == 3 and loader.get('color_type') == 'grayscale':
            path = cv2.cvtColor(path, cv2.COLOR_BGR2GRAY)
        return np.atleast_3d(path)
    scope = cfg.get('default_scope')
    with TRANSFORMS.switch_scope_and_registry(scope) as registry:
        image = registry.build(loader)(dict(img_path=path))['img']
    return np.atleast_3d(image)


def _objects(found: InstanceData, score_thr: float) -> InstanceData:
    """The objects with a sufficient score, in numpy, and with boxes."""
    found = found[found.scores >= score_thr].cpu()
    if 'bboxes' not in found or ('masks' in found and not found.bboxes.any()):
        from mmdet.structures.mask import mask2bbox

        found.bboxes = mask2bbox(found.masks)  # SOLO predicts only masks
    return found.numpy()
