"""Random images for one step of a model of any task."""

import torch


def make_batch(
    scope: str, shape: tuple[int, int] = (64, 64), n: int = 2, classes: int = 6
) -> dict:
    """Make random images with the ground truth that a task needs.

    Args:
        scope (str): The library of the task: 'mmpretrain', 'mmseg' or
            'mmdet'.
        shape (tuple[int, int]): Height and width in pixels. Defaults to 64
            each.
        n (int): Number of images. Defaults to 2.
        classes (int): Number of classes. Defaults to 6.

    Returns:
        dict: A batch as from a data loader of the library.
    """
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        shapes = [(3, *shape)] * n
        batch = demo_mm_inputs(n, shapes, [3] * n, 6, with_mask=True)
        for sample in batch['data_samples']:
            sample.gt_instances.labels %= classes
        return batch
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(i % classes) for i in range(n)]
    else:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = [SegDataSample() for _ in range(n)]
        for i, sample in enumerate(samples):
            labels = torch.arange(shape[0] * shape[1]).view(1, *shape)
            labels = labels // 512 % classes
            sample.gt_sem_seg = PixelData(data=labels.roll(i, 1))
            sample.set_metainfo(dict(img_shape=shape, ori_shape=shape))
    images = torch.randint(0, 256, (n, 3, *shape), dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)
