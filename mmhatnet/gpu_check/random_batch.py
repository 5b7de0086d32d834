"""Random images for a training step of any task."""

import torch


def make_batch(scope: str, size: int = 64, classes: int = 6) -> dict:
    """Make two random images with what a task needs as truth.

    Args:
        scope (str): The library of the task: 'mmpretrain', 'mmseg' or
            'mmdet'.
        size (int): Height and width in pixels. Defaults to 64.
        classes (int): Number of classes of objects. Defaults to 6.

    Returns:
        dict: What a data loader of the library gives.
    """
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        shapes = [(3, size, size)] * 2
        batch = demo_mm_inputs(2, shapes, [3, 3], 6, with_mask=True)
        for sample in batch['data_samples']:
            sample.gt_instances.labels %= classes
        return batch
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(i) for i in range(2)]
    else:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = [SegDataSample() for _ in range(2)]
        for i, sample in enumerate(samples):
            labels = torch.arange(size * size).view(1, size, size) // 512 % 6
            sample.gt_sem_seg = PixelData(data=labels.roll(i, 1))
            sample.set_metainfo(
                dict(img_shape=(size, size), ori_shape=(size, size))
            )
    return dict(inputs=[image, image.flip(2)], data_samples=samples)
