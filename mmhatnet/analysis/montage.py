"""Draw a segmentor's predictions beside the truth, in one picture.

``tools/visualization/vis_predictions.py`` is a command over this module.
"""

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..apis.inference import get_inferencer, predict
from ..engine.checks import check_data, iter_datasets

IGNORED = 255  # label of pixels that are not counted
GREY = (128, 128, 128)
GROUPS = 2  # samples in a row


def draw_montage(
    cfg: Config,
    checkpoint: str | None = None,
    count: int = 6,
    device: str | None = None,
) -> Figure:
    """Draw images of the test data, each beside its prediction and the truth.

    Args:
        cfg (Config): The config of a segmentor.
        checkpoint (str, optional): As for
            :func:`mmhatnet.apis.inference.get_inferencer`. Defaults to None.
        count (int): Number of images, spread over the data. Defaults to 6.
        device (str, optional): The device. Defaults to None, a GPU if
            available.

    Returns:
        Figure: Three panels for each image, with the share of its pixels that
        are right, and a legend of the classes.

    Raises:
        FileNotFoundError: If the test data or the checkpoint is missing.
        ValueError: If the model is no segmentor.
    """
    if cfg.default_scope != 'mmseg':
        raise ValueError(
            'predictions beside the truth are for segmentors: for others, '
            'use tools/test.py --show-dir'
        )
    check_data(cfg, ('test',))
    inferencer = get_inferencer(cfg, checkpoint, device)
    with DefaultScope.overwrite_default_scope('mmseg'):
        settings = next(iter_datasets(cfg.test_dataloader.dataset))
        dataset = DATASETS.build(settings)
        chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset)))
        samples = [dataset[i]['data_samples'] for i in chosen.astype(int)]
    meta = inferencer.model.dataset_meta
    # Pixels that are not counted have no class.
    colours = np.full((256, 3), GREY, np.uint8)
    colours[: len(meta['palette'])] = meta['palette']
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
        # The colours of the image would change those of the classes.
        shade = 0.35 * image.mean(2, keepdims=True)
        pictures = {
            'image': image,
            f'prediction: {100 * right:.0f} % right': shade
            + 0.65 * colours[found],
            'truth': shade + 0.65 * colours[truth],
        }
        for axis, (title, picture) in zip(
            panels, pictures.items(), strict=True
        ):
            axis.imshow(picture.astype(np.uint8))
            axis.set_title(title, fontsize=9)
        shown.update(np.unique(found), np.unique(truth))
    names = dict(enumerate(meta['classes']))
    patches = [
        Patch(
            facecolor=colours[label] / 255,
            edgecolor='black',
            label=names.get(label, 'not counted'),
        )
        for label in sorted(shown)
    ]
    figure.legend(
        handles=patches,
        loc='outside lower center',
        ncols=min(8, len(patches)),
        fontsize=9,
        frameon=False,
    )
    return figure
