"""Draw a segmentor's predictions next to the ground truth, in one picture.

``tools/visualization/vis_predictions.py`` is a command over this module.
"""

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..apis.inference import get_inferencer, predict
from ..engine.checks import check_data, iter_datasets

IGNORED = 255  # label of pixels that are not counted
GREY = (128, 128, 128)
TITLES = 'image', 'prediction', 'truth'
GROUPS = 2  # samples in a row


def draw_montage(
    cfg: Config,
    checkpoint: str | None = None,
    count: int = 6,
    device: str | None = None,
) -> Figure:
    """Draw test images, each next to its prediction and the ground truth.

    Args:
        cfg (Config): The config of a segmentor.
        checkpoint (str, optional): As for
            :func:`mmhatnet.apis.inference.get_inferencer`. Defaults to None.
        count (int): Number of images, spread over the data. Defaults to 6.
        device (str, optional): The device. Defaults to None, a GPU if
            available.

    Returns:
        Figure: Three panels for each image, with the share of its pixels that
        are labelled correctly, and a legend of the classes.

    Raises:
        FileNotFoundError: If the test data or the checkpoint is missing.
        ValueError: If the model is no segmentor.
    """
    if cfg.default_scope != 'mmseg':
        raise ValueError(
            'predictions next to the ground truth need a '
            'segmentor: for other models, use tools/test.py --show-dir'
        )
    check_data(cfg, ('test',))
    inferencer = get_inferencer(cfg, checkpoint, device)
    with DefaultScope.overwrite_default_scope('mmseg'):
        settings = next(iter_datasets(cfg.test_dataloader.dataset))
        dataset = DATASETS.build(settings)
        chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset)))
        samples = [dataset[i]['data_samples'] for i in chosen.astype(int)]
    meta = inferencer.model.dataset_meta
    palette = np.array(meta['palette'], np.uint8)
    rows = -(-len(samples) // GROUPS)
    height, width = samples[0].gt_sem_seg.shape
    side = 1.9  # inches of a panel's width
    figure = Figure(
        figsize=(
            side * 3 * GROUPS,
            (side * height / width + 0.3) * rows + 0.5,
        ),
        layout='constrained',
    )
    axes = figure.subplots(rows, 3 * GROUPS, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    shown: set[int] = set()
    for sample, panels in zip(samples, axes.reshape(-1, 3), strict=False):
        truth = sample.gt_sem_seg.data[0].numpy()
        found = np.asarray(predict(inferencer, sample.img_path)[2])
        counted = truth != IGNORED
        right = (found == truth)[counted].mean() if counted.any() else 1
        image = np.asarray(cv2.imread(sample.img_path))[..., ::-1]
        titles = (
            TITLES[0],
            f'{TITLES[1]}: {100 * right:.0f} % right',
            TITLES[2],
        )
        for axis, title, labels in zip(
            panels, titles, (None, found, truth), strict=True
        ):
            _draw(axis, title, image, labels, palette)
        shown.update(np.unique(found), np.unique(truth))
    _explain(figure, sorted(shown), meta['classes'], palette)
    return figure


def _draw(
    axis: Axes,
    title: str,
    image: np.ndarray,
    labels: np.ndarray | None,
    palette: np.ndarray,
) -> None:
    if labels is not None:
        colours = np.full((256, 3), GREY, np.uint8)
        colours[: len(palette)] = palette
        # The colours of the image would change those of the classes.
        shade = image.mean(2, keepdims=True)
        image = (0.35 * shade + 0.65 * colours[labels]).astype(np.uint8)
    axis.imshow(image)
    axis.set_title(title, fontsize=9)


def _explain(
    figure: Figure,
    shown: list[int],
    classes: list[str],
    palette: np.ndarray,
) -> None:
    patches = [
        Patch(
            facecolor=np.divide(
                palette[label] if label < len(palette) else GREY, 255
            ),
            edgecolor='black',
            label=classes[label] if label < len(classes) else 'not counted',
        )
        for label in shown
    ]
    figure.legend(
        handles=patches,
        loc='outside lower center',
        ncols=min(8, len(patches)),
        fontsize=9,
        frameon=False,
    )
