from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.config import read_base
from mmseg.datasets import BaseSegDataset, LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, FPNHead, SegDataPreProcessor
from mmseg.models.necks import FPN
from mmseg.visualization import SegLocalVisualizer
from torch.nn import SyncBatchNorm

with read_base():
    from .runtime import *  # noqa: F403

sizes = dict(channels=16, num_classes=7, feature_strides=[4, 8, 16, 32])
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, size=(64, 64)),
    backbone=backbone,  # noqa: F405
    neck=dict(
        type=FPN, in_channels=[8, 16, 16, 24], out_channels=16, num_outs=4
    ),
    decode_head=dict(
        type=FPNHead,
        in_channels=[16] * 4,
        in_index=[0, 1, 2, 3],
        norm_cfg=dict(type=SyncBatchNorm, requires_grad=True),
        **sizes,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
names = 'background', 'disk', 'square', 'triangle', 'star', 'ring', 'cross'
dataset = dict(
    type=BaseSegDataset,
    data_root='data/demo/ade/ADEChallengeData2016',
    metainfo=dict(classes=names),
    reduce_zero_label=True,
    pipeline=[
        dict(type=LoadImageFromFile),
        dict(type=Resize, scale=(64, 64)),
        dict(type=LoadAnnotations, reduce_zero_label=True),
        dict(type=PackSegInputs),
    ],
)
train_dataloader, val_dataloader = (
    dict(
        **loader,  # noqa: F405
        dataset=dict(
            **dataset,
            data_prefix=dict(
                img_path=f'images/{split}', seg_map_path=f'annotations/{split}'
            ),
        ),
    )
    for split in ('training', 'validation')
)
load, resize, labels, pack = dataset['pipeline']
train_dataloader['dataset']['pipeline'] = [load, labels, resize, pack]
test_dataloader = val_dataloader
test_evaluator = val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
visualizer = dict(type=SegLocalVisualizer, name='visualizer')
