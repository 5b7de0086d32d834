"""Graphs for any size of image, their checks, and what has no graph."""

import numpy as np
import pytest
import torch
from helpers import (
    DETECTORS,
    EXPORTABLE,
    needs_export,
    scale_predictions,
)
from mmengine.config import Config

import mmhatnet
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.deploy.base_graph import AdaptivePool
from mmhatnet.deploy.export import describe_steps, export_program
from mmhatnet.deploy.graphs import check_graph, make_graph
from mmhatnet.deploy.verification import (
    as_arrays,
    check_errors,
    objects_error,
    verify,
)
from mmhatnet.deploy.writer import export_files, save


@pytest.mark.parametrize('size', [1, (2, 3), 6])
@pytest.mark.parametrize('shape', [(7, 9), (3, 4), (23, 1)])
def test_adaptive_pooling(size, shape):
    """As in UPerNet, for any size in a graph."""
    x = torch.randn(2, 3, *shape)
    expected = torch.nn.AdaptiveAvgPool2d(size)(x)
    torch.testing.assert_close(AdaptivePool(size)(x), expected)


@needs_export
@pytest.mark.slow
@pytest.mark.parametrize('head', ['UPerHead', 'SegformerHead'])
def test_other_decode_heads(head):
    cfg = load_model_config(EXPORTABLE['segmentation'])
    channels = list(cfg.model.pop('neck').in_channels)
    cfg.model.decode_head = dict(
        type=head,
        in_channels=channels,
        in_index=list(range(len(channels))),
        channels=16,
        num_classes=7,
        norm_cfg=dict(type='BN'),
        align_corners=False,
    )
    graph = make_graph(mmhatnet.get_model(cfg))
    with torch.no_grad():
        module = export_program(graph).module()
    for row in verify(graph, as_arrays(module)):
        assert row['error'] < 1e-4


@needs_export
@pytest.mark.slow
@pytest.mark.parametrize('groups', [1, 2])
def test_norm_of_large_maps(groups, tmp_path):
    """onnxruntime's own norm adds so many values one by one."""
    onnxruntime = pytest.importorskip('onnxruntime')
    norm = torch.nn.GroupNorm(groups, 4, eps=1e-6).eval()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    dims = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(
        norm, (torch.rand(2, 4, 9, 7),), dynamic_shapes=(dims,)
    )
    path = tmp_path / 'norm.onnx'
    save(program, dict(outputs=['out'], precision='float32'), path)
    x = 2 + torch.randn(1, 4, 2000, 2000)
    with torch.no_grad():
        expected = norm.double()(x.double()).numpy()
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {'images': x.numpy()})
    assert np.abs(found - expected).max() < 2e-5


def build(kind, scaled=False, **settings):
    cfg = load_model_config(EXPORTABLE[kind])
    cfg.merge_from_dict(settings)
    torch.manual_seed(0)
    model = mmhatnet.get_model(cfg)
    if scaled and kind in DETECTORS:
        scale_predictions(model)
    return model


@pytest.mark.parametrize('kind', [*EXPORTABLE, 'Faster R-CNN'])
def test_graph_equals_mm(kind):
    """make_graph() compares them."""
    settings = {}
    if kind == 'Faster R-CNN':
        none = dict.fromkeys(('mask_head', 'mask_roi_extractor'))
        settings = {'model.type': 'FasterRCNN', 'model.roi_head': none}
        kind = 'instances'
    model = build(kind, scaled=True, **settings)
    graph = make_graph(model)
    if kind in DETECTORS:
        found = graph(255 * torch.rand(1, 3, 101, 77))
        assert len(found[0]) > 3
        assert len(found) == 4 - (kind == 'detection' or bool(settings))
    graph.mean += 100
    with pytest.raises(ValueError, match='a feature that the exported file'):
        check_graph(graph, model)


SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        ('detection', {'test_cfg.nms.type': 'soft_nms'}, 'nms=.*soft_nms'),
        ('detection', {'test_cfg.nms.class_agnostic': True}, 'nms={'),
        ('detection', {'test_cfg.max_per_img': -1}, 'without max_per'),
        ('detection', {'test_cfg.nms_pre': -1}, 'without nms_pre'),
        ('detection', {'test_cfg.min_bbox_size': 3}, 'min_bbox_size'),
        (
            'instances',
            {'roi_head.bbox_head.reg_class_agnostic': True},
            'class-agnostic boxes cannot',
        ),
        ('instances', {'test_cfg.rcnn.mask_thr_binary': 0.3}, 'mask_thr_bin'),
        ('segmentation', {'test_cfg': SLIDE}, 'sliding windows cannot'),
        ('segmentation', {'decode_head.align_corners': True}, 'align_corners'),
        ('detection', {'type': 'SingleStageDetector'}, 'a SingleStageDet'),
    ],
)
def test_features_without_a_graph(kind, settings, message):
    settings = {f'model.{key}': value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        make_graph(build(kind, **settings))


@pytest.mark.parametrize(
    'step',
    [
        dict(type='RandomRotate'),
        dict(type='CenterCrop', crop_size=(64, 32)),
        dict(type='LoadImageFromFile', to_float32=True),
        dict(type='LoadSingleRSImageFromFile'),
    ],
)
def test_steps_that_cannot_be_described(step):
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[step]))))
    with pytest.raises(ValueError, match='cannot be'):
        list(describe_steps(cfg))


def test_errors_of_objects():
    """Order does not count; other boxes, scores, labels or numbers do."""
    random = np.random.default_rng(0)
    boxes = random.uniform(0, 100, (42, 4))
    scores = np.linspace(0.1, 0.9, 42)
    expected = boxes, scores, np.arange(42) % 3
    swapped = [each[::-1] for each in expected]
    assert objects_error(swapped, expected) == (0, 41)
    for i, change in ((0, 200), (1, 0.01), (2, 1), (0, np.nan)):
        wrong = [each.copy() for each in expected]
        wrong[i][20:22] += 1  # one in twenty may differ
        assert objects_error(wrong, expected)[0] == 0
        wrong[i][20:25] += change
        assert not objects_error(wrong, expected)[0] < 0.01
    half = [each[::2] for each in expected]
    nothing = [each[:0] for each in expected]
    assert objects_error(half, expected)[0] > 0.01
    assert objects_error(expected, half)[0] > 0.01
    assert objects_error(nothing, expected) == (42, 0)
    assert objects_error(nothing, nothing) == (0, 0)

    with pytest.raises(ValueError, match='differs from PyTorch by nan'):
        check_errors([dict(error=1e-4), dict(error=float('nan'))])


def test_missing_packages(tmp_path, monkeypatch):
    monkeypatch.setattr('mmhatnet.deploy.writer.ONNX', ('onnx_of_mars',))
    graph = make_graph(build('classification'))
    with pytest.raises(ImportError, match='pip install onnx_of_mars'):
        export_files(graph, None, None, tmp_path / 'model.onnx')


@needs_export
@pytest.mark.slow
def test_nothing_is_left_of_a_wrong_file(tmp_path, monkeypatch):
    model = build('classification')
    graph, out = make_graph(model), tmp_path / 'model.pt2'
    monkeypatch.setattr('mmhatnet.deploy.writer.as_arrays', lambda _: wrong)

    def wrong(images):
        return [np.full((len(images), 4), 0.5, np.float32)]

    with pytest.raises(ValueError, match='differs from PyTorch'):
        export_files(graph, model.cfg, None, out)
    assert not list(tmp_path.iterdir())
