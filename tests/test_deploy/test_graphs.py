"""Graphs for any size of image, their checks, and what has no graph."""

import numpy as np
import pytest
import torch
from helpers import (
    DETECTORS,
    EXPORTABLE,
    SMALL_ARCH,
    needs_export,
    scale_predictions,
)
from mmengine.config import Config

import mmhatnet
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.deploy.export import describe_steps, export_program
from mmhatnet.deploy.graphs import check_graph, make_graph
from mmhatnet.deploy.verification import (
    as_arrays,
    check_errors,
    objects_error,
    verify,
)
from mmhatnet.deploy.writer import export_files, save_onnx
from mmhatnet.models import HATNet

SHAPES = (
    *((1, 101, 77), (2, 256, 256), (1, 224, 224), (3, 64, 96)),
    *((1, 97, 353), (1, 32, 32), (1, 33, 40)),
)


def largest_error(run, model):
    errors = []
    for shape in SHAPES:
        x = torch.randn(shape[0], 3, *shape[1:])
        with torch.no_grad():
            pairs = zip(run(x), model(x), strict=True)
            errors += [float((a - b).abs().max()) for a, b in pairs]
    return max(errors)


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    return HATNet(SMALL_ARCH).eval()


class TestGraphsOfTheBackbone:
    """Right at every size, whatever the size of the example."""

    @pytest.mark.parametrize('example', [(1, 101, 77), (2, 128, 96)])
    def test_trace(self, backbone, example):
        x = torch.randn(example[0], 3, *example[1:])
        with torch.no_grad():
            traced = torch.jit.trace(backbone, x, check_trace=False)
        assert largest_error(traced, backbone) < 1e-4

    @needs_export
    @pytest.mark.slow
    @pytest.mark.parametrize('example', [(1, 101, 77), (2, 256, 256)])
    def test_export(self, backbone, example):
        from mmhatnet.deploy.export import sizes_of_one

        dim = torch.export.Dim
        dims = {
            0: dim('batch', min=1, max=8),
            2: dim('height', min=32, max=2048),
            3: dim('width', min=32, max=2048),
        }
        x = torch.randn(example[0], 3, *example[1:])
        with torch.no_grad(), sizes_of_one():
            program = torch.export.export(
                backbone, (x,), dynamic_shapes=(dims,)
            )
        assert largest_error(program.module(), backbone) < 1e-4


def check_export(graph):
    with torch.no_grad():
        module = export_program(graph).module()
    for row in verify(graph, as_arrays(module)):
        assert row['error'] < 1e-4


@needs_export
@pytest.mark.slow
def test_pyramid_pooling():
    """UPerNet's adaptive pooling depends on the size."""
    cfg = load_model_config('upernet_hatnet-small_8xb2-160k_ade20k-512x512')
    dims = list(SMALL_ARCH['embed_dims'])
    cfg.model.backbone.arch = SMALL_ARCH
    cfg.model.decode_head.update(in_channels=dims, channels=32)
    cfg.model.auxiliary_head.in_channels = dims[2]
    model = mmhatnet.get_model(cfg).eval()
    maps = [
        torch.randn(1, dim, 40 // 2**i, 23 // 2**i)
        for i, dim in enumerate(dims)
    ]
    with torch.no_grad():
        expected = model.decode_head(maps)
        graph = make_graph(model)
        assert (model.decode_head(maps) - expected).abs().max() < 1e-4
    check_export(graph)


@needs_export
@pytest.mark.slow
def test_segformer_head():
    cfg = load_model_config(EXPORTABLE['segmentation'])
    channels = list(cfg.model.pop('neck').in_channels)
    cfg.model.decode_head = dict(
        type='SegformerHead',
        in_channels=channels,
        in_index=list(range(len(channels))),
        channels=16,
        num_classes=7,
        norm_cfg=dict(type='BN'),
        align_corners=False,
    )
    check_export(make_graph(mmhatnet.get_model(cfg)))


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
    save_onnx(program, dict(outputs=['out']), path)
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
    """make_graph() compares them, twice in a row."""
    settings = {}
    if kind == 'Faster R-CNN':
        none = dict.fromkeys(('mask_head', 'mask_roi_extractor'))
        settings = {'model.type': 'FasterRCNN', 'model.roi_head': none}
        kind = 'instances'
    model = build(kind, scaled=True, **settings)
    shape = 1, 3, 101, 77
    found = [make_graph(model)(255 * torch.rand(shape)) for _ in range(2)]
    if kind not in ('classification', 'segmentation'):
        assert len(found[0][0]) > 3
        assert len(found[0]) == 4 - (kind == 'detection' or bool(settings))


def test_graph_that_differs():
    model = build('classification')
    graph = make_graph(model)
    graph.mean += 100
    with pytest.raises(ValueError, match='a feature that the exported file'):
        check_graph(graph, model)


SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
MULTI_LABEL = {
    'head': dict(
        _delete_=True,
        type='MultiLabelLinearClsHead',
        num_classes=4,
        in_channels=384,
    ),
    'neck': dict(type='GlobalAveragePooling'),
}


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        ('detection', {'test_cfg.nms.type': 'soft_nms'}, 'nms=.*soft_nms'),
        ('detection', {'test_cfg.nms.class_agnostic': True}, 'nms={'),
        ('detection', {'test_cfg.nms.offset': 1}, 'nms={'),
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
        ('classification', MULTI_LABEL, 'a MultiLabelLinearClsHead cannot'),
        ('instances', {'type': 'CascadeRCNN'}, 'a CascadeRCNN cannot be'),
    ],
)
def test_features_without_a_graph(kind, settings, message):
    settings = {f'model.{key}': value for key, value in settings.items()}
    if settings.get('model.type') == 'CascadeRCNN':
        settings['model.roi_head'] = None
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
    for i, change in ((0, 200), (1, 0.01), (2, 1)):
        for count, lowest, highest in ((2, 0, 0), (5, 0.01, 2)):
            wrong = [each.copy() for each in expected]
            wrong[i][20 : 20 + count] += change
            error = objects_error(wrong, expected)[0]
            assert lowest <= error <= highest
    half = [each[::2] for each in expected]
    nothing = [each[:0] for each in expected]
    assert objects_error(half, expected)[0] > 0.01
    assert objects_error(expected, half)[0] > 0.01
    assert objects_error(nothing, expected) == (42, 0)
    assert objects_error(nothing, nothing) == (0, 0)
    wrong = [each.copy() for each in expected]
    wrong[0][5:30] = np.nan
    assert np.isnan(objects_error(wrong, expected)[0])


@pytest.mark.parametrize('error', [0.01, float('nan'), float('inf')])
def test_errors_that_are_too_large(error):
    check_errors([dict(error=1e-4)])
    with pytest.raises(ValueError, match='differs from PyTorch'):
        check_errors([dict(error=1e-4), dict(error=error)])


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
    with pytest.raises(ValueError, match='only ONNX files can share'):
        export_files(
            graph, model.cfg, None, out, [(None, (8, 4, 2)), (None, (4, 2, 1))]
        )
    monkeypatch.setattr('mmhatnet.deploy.writer._load', lambda path: wrong)

    def wrong(images):
        return [np.full((len(images), 4), 0.5, np.float32)]

    with pytest.raises(ValueError, match='differs from PyTorch'):
        export_files(graph, model.cfg, None, out)
    assert not list(tmp_path.iterdir())
