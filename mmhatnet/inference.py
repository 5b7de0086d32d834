"""Predictions for images, as files and pictures, by models of any task.

``tools/infer.py`` is a command over this module.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from PIL import Image

from .weights.loading import load_weights
from .zoo import dataset_meta, find_weights, get_model, load_model_config

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def get_inferencer(
    model: str | os.PathLike | Config,
    checkpoint: str | None = None,
    device: str | None = None,
):
    """Get the library's own inferencer by the name of one of our models.

    Args:
        model (str | PathLike | Config): The model's name, a config file or a
            config.
        checkpoint (str, optional): A file, a URL or ``hatnet://NAME``, read
            without executing what may be in it. Defaults to None, the
            released weights.
        device (str, optional): Where to run. Defaults to None, a GPU if there
            is one.

    Returns:
        ImageClassificationInferencer | MMSegInferencer | DetInferencer: Of
        mmpretrain, mmsegmentation or mmdet; see their documentation.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such model, there are no weights of it, or
            the weights do not fit. The message names the keys.
    """
    cfg = load_model_config(model)
    checkpoint = checkpoint or find_weights(model)
    # The libraries set the scope, for good; here it is as before afterwards.
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return _build(cfg, checkpoint, device or get_device())


def _build(cfg: Config, checkpoint: str, device: str):
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer

        built = get_model(cfg, checkpoint, device)
        classes = built.dataset_meta.get('classes')
        return ImageClassificationInferencer(built, classes=classes)
    meta = dataset_meta(cfg)
    with warnings.catch_warnings():
        # Of random weights and classes, which both are replaced here.
        warnings.simplefilter('ignore')
        if cfg.default_scope == 'mmseg':
            from mmseg.apis import MMSegInferencer

            made = MMSegInferencer(cfg, device=device)
        else:
            from mmdet.apis import DetInferencer

            made = DetInferencer(cfg, device=device)
    # Not all versions have it as an argument.
    made.show_progress = False
    meta.update(load_weights(made.model, checkpoint))
    # mmseg's visualizer takes nothing else.
    made.model.dataset_meta.update(
        {key: meta[key] for key in ('classes', 'palette') if key in meta}
    )
    made.visualizer.dataset_meta = made.model.dataset_meta
    return made


def predict(
    inferencer, path: str | os.PathLike, score_thr: float = 0.3, top: int = 5
) -> tuple[dict, np.ndarray, np.ndarray | None]:
    """Predict for one image.

    Args:
        inferencer (object): As from :func:`get_inferencer`.
        path (str | PathLike): The image.
        score_thr (float): Lowest score of a detected object. Defaults to 0.3.
        top (int): How many classes of a classifier. Defaults to 5.

    Returns:
        tuple[dict, ndarray, ndarray | None]: The result, ready for JSON; its
        picture, (H, W, 3), RGB, 8 bits; and for a segmentor the label of each
        pixel, (H, W).

        - A classifier's result is a list ``classes`` of ``label``, ``name``
          and ``score``, best first.
        - A segmentor's is a list ``classes`` of ``label``, ``name`` and
          ``share`` of the image, largest first.
        - A detector's is a list ``objects`` of ``label``, ``name``, ``score``
          and ``bbox``, (x1, y1, x2, y2) in pixels, with a ``mask`` in COCO's
          run-length encoding if it makes masks, best first.
    """
    classes = inferencer.model.dataset_meta.get('classes')

    def named(label: int, **values) -> dict:
        name = classes[label] if classes else str(label)
        return dict(label=int(label), name=name, **values)

    path = str(path)
    library = type(inferencer).__name__
    if library == 'ImageClassificationInferencer':
        # In its parts, without a progress display for each image.
        (batch,) = inferencer.preprocess([path])
        (sample,) = inferencer.forward(batch)
        scores = sample.pred_score.tolist()
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[:top]
        result = dict(classes=[named(i, score=scores[i]) for i in best])
        picture = _draw_classes(path, sample, classes)
        return result, picture, None
    if library == 'MMSegInferencer':
        output = inferencer(path, return_vis=True, opacity=0.6)
        labels = output['predictions']
        labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
        found, counts = np.unique(labels, return_counts=True)
        shares = sorted(zip(counts / labels.size, found, strict=True))
        result = dict(
            classes=[named(i, share=float(s)) for s, i in reversed(shares)]
        )
        return result, output['visualization'], labels
    output = inferencer(path, return_vis=True, pred_score_thr=score_thr)
    (prediction,), (picture,) = output['predictions'], output['visualization']
    objects = []
    for i in range(len(prediction['labels'])):
        if prediction['scores'][i] >= score_thr:
            values = dict(
                score=prediction['scores'][i], bbox=prediction['bboxes'][i]
            )
            if 'masks' in prediction:
                values['mask'] = prediction['masks'][i]
            objects.append(named(prediction['labels'][i], **values))
    return dict(objects=objects), picture, None


def _draw_classes(path: str, sample, classes: Sequence[str] | None):
    from mmpretrain.visualization import UniversalVisualizer

    image = mmcv.imread(path, channel_order='rgb')
    # Small images become large enough for the text on them.
    return UniversalVisualizer().visualize_cls(
        image, sample, classes, draw_gt=False, resize=max(image.shape[0], 384)
    )


def find_images(places: Sequence[str]) -> list[Path]:
    """Find the images in files, folders and patterns.

    Args:
        places (Sequence[str]): Files, folders (of which the images in the
            folder itself are taken) and patterns such as ``'data/*.jpg'``.

    Returns:
        list[Path]: The files, each once, in the order of ``places``.

    Raises:
        FileNotFoundError: If one of the places has no image.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place).expanduser()
        if path.is_file():
            here = [path]
        elif path.is_dir():
            here = sorted(path.iterdir())
        else:
            here = sorted(map(Path, glob(str(path), recursive=True)))
        if not path.is_file():
            here = [file for file in here if file.suffix.lower() in EXTENSIONS]
        if not here:
            raise FileNotFoundError(
                f'no image at {place}: give files, folders or patterns of '
                f'{", ".join(EXTENSIONS)}'
            )
        found.update(dict.fromkeys(here))
    return list(found)


def unreadable(path: str | os.PathLike) -> str | None:
    """Find out why a file cannot be read as an image.

    OpenCV returns what there is of a truncated file without a word.

    Args:
        path (str | PathLike): The file.

    Returns:
        str, optional: The reason, or None if it can be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return None


def unique_names(paths: Sequence[Path]) -> Iterator[str]:
    """Name the results of images, also where images have the same name.

    Args:
        paths (Sequence[Path]): The images.

    Yields:
        str: ``<stem>``, or ``<stem>_2`` and so on where that is taken.
    """
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f'{path.stem}_{number}'
        taken.add(name)
        yield name
