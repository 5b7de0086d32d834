"""Graphs for any size of image, exported files, and those who run them."""

import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import DEMOS, ROOT, SMALL_ARCH, TOOLS, TORCH, call_tool
from mmengine.config import Config

import mmhatnet
from mmhatnet.deploy import runtime
from mmhatnet.deploy.export import export_program
from mmhatnet.deploy.files import as_arrays, share_weights
from mmhatnet.deploy.graphs import make_graph
from mmhatnet.deploy.precision import to_float16, to_int8
from mmhatnet.deploy.verification import objects_error, verify
from mmhatnet.inference import get_inferencer, predict
from mmhatnet.models import HATNet
from mmhatnet.zoo import load_model_config

EXPORT = TOOLS / 'deployment' / 'export.py'
INFER = TOOLS / 'infer.py'
TEST = TOOLS / 'deployment' / 'test.py'
METRIC = re.compile(r'(?:mIoU|segm_mAP): +([\d.]+)')
EVIDENCE = ROOT / 'configs' / 'evidence'
SHAPES = [
    (1, 101, 77),
    (2, 256, 256),
    (1, 224, 224),
    (3, 64, 96),
    (1, 97, 353),
    (1, 32, 32),
    (1, 33, 40),
]
needs_export = pytest.mark.skipif(
    TORCH < (2, 8), reason='torch.export of any size needs torch 2.8'
)


def largest_error(run, model, shapes=SHAPES):
    errors = []
    for shape in shapes:
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


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    """A photograph of an odd size."""
    skimage = pytest.importorskip('skimage')
    picture = cv2.imread(f'{skimage.__path__[0]}/data/coffee.png')
    path = tmp_path_factory.mktemp('image') / 'coffee.png'
    cv2.imwrite(str(path), picture[:233, :301])
    return path


MODELS = {
    'classification': DEMOS['Image Classification'],
    'segmentation': f'{EVIDENCE}/fpn_hatnet-micro-scratch_1xb8-400_demo.py',
    'detection': (
        f'{EVIDENCE}/retinanet_hatnet-micro-scratch_fpn_1xb4-36e_trees.py'
    ),
    'instances': (
        f'{EVIDENCE}/mask-rcnn_hatnet-micro-scratch_fpn_1xb8-6e_demo.py'
    ),
}
DETECTORS = 'detection', 'instances'


@torch.no_grad()
def scale_predictions(model):
    """Spread random scores and boxes as a trained detector does.

    Boxes that are all alike, or scores that are all 0 or 1, leave what
    non-maximum suppression keeps to rounding.
    """
    graph, images = make_graph(model), 255 * torch.rand(1, 3, 224, 224)
    spreads = []
    for name, layer in graph.model.named_modules():
        if name.endswith(('_cls', '_reg')) and hasattr(layer, 'weight'):
            wanted = 2 if name.endswith('cls') else 0.3
            hook = layer.register_forward_hook(
                lambda *args: spreads.append(args[-1].std())
            )
            graph(images)
            layer.weight *= wanted / spreads[0]
            hook.remove()
            spreads.clear()
    model.load_state_dict(graph.model.state_dict())


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Function that exports a random model, once: config, weights, file."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    folder, done = tmp_path_factory.mktemp('exported'), {}

    def export(kind):
        if kind not in done:
            cfg = load_model_config(MODELS[kind])
            torch.manual_seed(0)
            model = mmhatnet.get_model(cfg)
            if kind in DETECTORS:
                scale_predictions(model)
            weights, path = folder / f'{kind}.pth', folder / f'{kind}.onnx'
            torch.save(dict(state_dict=model.state_dict()), weights)
            output = call_tool(EXPORT, MODELS[kind], weights, '--out', path)
            assert '| 97x353 |' in output
            assert 'no box was compared' not in output
            done[kind] = cfg, str(weights), path
        return done[kind]

    return export


def arrays_of(objects):
    """Boxes, scores and labels of the objects of a result."""
    keys = 'bbox', 'score', 'name'
    return [np.array([each[key] for each in objects]) for key in keys]


def largest_mask_error(found, expected):
    """Share of pixels, of objects that are in the same place in both."""
    coco = pytest.importorskip('pycocotools.mask')
    errors = []
    for a, b in zip(found, expected, strict=True):
        if np.allclose(a['bbox'], b['bbox'], atol=0.1):
            masks = [coco.decode(each['mask']) for each in (a, b)]
            errors.append((masks[0] != masks[1]).mean())
    assert len(errors) > len(found) / 2
    return max(errors)


@needs_export
@pytest.mark.slow
class TestOnnx:
    @pytest.mark.parametrize('kind', MODELS)
    def test_same_result_as_the_checkpoint(self, kind, exported, image):
        cfg, weights, path = exported(kind)
        model = runtime.OnnxModel(path)
        assert model.metadata['kind'] == kind
        found, picture, labels = model.predict(image, score_thr=0)
        inferencer = get_inferencer(cfg, weights, 'cpu')
        expected, other, masks = predict(inferencer, image, score_thr=0)
        assert picture.dtype == np.uint8
        if labels is not None:
            assert (labels != masks).mean() < 1e-3
            assert picture.shape == other.shape
        (name,) = expected
        assert len(found[name]) == len(expected[name]) > 0
        if kind in DETECTORS:
            error, count = objects_error(
                *(map(arrays_of, (found[name], expected[name])))
            )
            assert error < 1e-3
            assert count > 0
            if kind == 'instances':
                assert largest_mask_error(found[name], expected[name]) < 0.02
            return
        for a, b in zip(found[name], expected[name], strict=True):
            assert a['name'] == b['name']
            for key in {'score', 'share'} & b.keys():
                assert a[key] == pytest.approx(b[key], rel=1e-2, abs=1e-2)

    def test_torch_export(self, exported, tmp_path):
        _, weights, _ = exported('classification')
        output = call_tool(
            *(EXPORT, MODELS['classification'], weights),
            *('--format', 'torch-export', '--out', tmp_path / 'model.pt2'),
        )
        assert '| 97x353 |' in output
        assert (tmp_path / 'model.pt2').exists()

    def test_metadata(self, exported):
        path = exported('segmentation')[2]
        found = runtime.OnnxModel(path).metadata
        assert found['kind'] == 'segmentation'
        assert found['channels'] == 'RGB'
        assert found['classes'][:2] == ['background', 'disk']
        assert (found['G1'], found['G2']) == ([8, 8, 8], [8, 4, 2])
        assert len(found['checkpoint_sha256']) == 64
        assert found['versions']['torch'].startswith('2.')

    def test_hides_the_machine(self, exported):
        """torch.onnx writes the paths and lines of the source code."""
        contents = exported('segmentation')[2].read_bytes()
        assert str(ROOT).encode() not in contents
        assert b'stack_trace' not in contents

    def test_precision(self, exported, image, tmp_path):
        path = exported('segmentation')[2]
        expected = runtime.OnnxModel(path).predict(image)[2]
        sizes = [path.stat().st_size]
        for name, convert in (
            ('half', to_float16),
            ('int8', lambda file: to_int8(file, [image])),
        ):
            file = shutil.copy(path, tmp_path / f'{name}.onnx')
            convert(file)
            sizes.append(file.stat().st_size)
            labels = runtime.OnnxModel(file).predict(image)[2]
            assert (labels == expected).mean() > 0.9
        assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]

    def test_shared_weights(self, exported, image, tmp_path):
        path = exported('segmentation')[2]
        expected = runtime.OnnxModel(path).predict(image)[2]
        files = [shutil.copy(path, tmp_path / f'{i}.onnx') for i in range(2)]
        data = share_weights(files, 'seg')
        assert re.fullmatch(r'seg-[0-9a-f]{8}\.data', data.name)
        sizes = [each.stat().st_size for each in tmp_path.iterdir()]
        assert sum(sizes) < 1.5 * path.stat().st_size
        for file in files:
            assert (
                runtime.OnnxModel(file).predict(image)[2] == expected
            ).all()

    @pytest.mark.parametrize('kind', ['segmentation', 'instances'])
    def test_metrics_of_the_checkpoint(self, kind, exported, demo_folder):
        _, weights, path = exported(kind)
        found = []
        for command in (TOOLS / 'test.py', weights), (TEST, path):
            output = call_tool(
                *(command[0], MODELS[kind], command[1]),
                *('--work-dir', 'work_dirs/exported'),
                cwd=demo_folder,
            )
            found.append(METRIC.findall(output)[-1])
        assert float(found[0]) == pytest.approx(float(found[1]), abs=0.02)

    def test_without_torch_and_mm(self, exported, image, tmp_path):
        path = exported('classification')[2]
        blocked = '\n'.join(
            f'sys.modules[{name!r}] = None'
            for name in ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'tqdm')
        )
        code = f"""
import sys, runpy
{blocked}
sys.argv = ['infer.py', {str(path)!r}, {str(image)!r}]
sys.argv += ['--out-dir', {str(tmp_path / 'out')!r}]
runpy.run_path({str(INFER)!r}, run_name='__main__')
"""
        subprocess.run([sys.executable, '-c', code], check=True)
        result = json.loads((tmp_path / 'out' / 'coffee.json').read_text())
        assert len(result['classes']) == 5

    def test_errors_in_one_line(self, exported, image, tmp_path):
        path = exported('classification')[2]
        damaged = tmp_path / 'damaged.onnx'
        damaged.write_bytes(path.read_bytes()[:1000])
        foreign = tmp_path / 'foreign.onnx'
        onnx = pytest.importorskip('onnx')
        node = onnx.helper.make_node('Identity', ['images'], ['scores'])
        info = [
            onnx.helper.make_tensor_value_info(name, 1, [1])
            for name in ('images', 'scores')
        ]
        graph = onnx.helper.make_graph([node], 'x', info[:1], info[1:])
        opset = onnx.helper.make_opsetid('', 17)
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8),
            foreign,
        )
        out = '--out-dir', tmp_path / 'out'
        for file, text in (
            (damaged, 'is not an ONNX model, or is damaged'),
            (foreign, 'has no metadata of mmhatnet'),
            (tmp_path / 'absent.onnx', 'no model at'),
        ):
            output = call_tool(INFER, file, image, *out, code=1)
            assert output.count('\n') == 1
            assert text in output
        model = runtime.OnnxModel(path)
        with pytest.raises(ValueError, match='at least 32x32 pixels, got 31'):
            model.run(np.zeros((1, 3, 31, 64), np.float32))


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
        module = export_program(graph).module()
        for row in verify(graph, as_arrays(module)):
            assert row['error'] < 1e-4


class TestRuntime:
    """The parts that have no model, against the libraries'."""

    @pytest.mark.parametrize('density', [0, 0.01, 0.5, 0.99, 1])
    def test_run_lengths(self, density):
        coco = pytest.importorskip('pycocotools.mask')
        random = np.random.default_rng(0)
        mask = random.random((37, 53)) < density
        expected = coco.encode(np.asfortranarray(mask, np.uint8))
        found = runtime.encode(mask)
        assert found['size'] == list(expected['size'])
        assert found['counts'].encode() == expected['counts']

    @pytest.mark.parametrize(
        'box', [(3.2, 4.7, 40.1, 30.9), (-5, -5, 70, 60), (10, 10, 10.5, 11)]
    )
    def test_masks_are_pasted_as_in_mmdet(self, box):
        pytest.importorskip('mmdet')
        from mmdet.models.roi_heads.mask_heads.fcn_mask_head import (
            _do_paste_mask,
        )

        mask = np.random.default_rng(0).random((28, 28), np.float32)
        mask = cv2.GaussianBlur(mask, (0, 0), 3)
        mask = (mask - mask.min()) / np.ptp(mask)
        expected, _ = _do_paste_mask(
            torch.from_numpy(mask)[None, None],
            torch.tensor([box]),
            48,
            64,
            skip_empty=False,
        )
        found = runtime.paste(mask, np.array(box), (48, 64))
        assert (found != (expected[0].numpy() >= 0.5)).mean() < 2e-3

    @pytest.mark.parametrize(
        'steps',
        [
            [dict(type='Resize', scale=(96, 64), keep_ratio=True)],
            [dict(type='Resize', scale=64, interpolation='bicubic')],
            [
                dict(type='ResizeEdge', scale=64, backend='pillow'),
                dict(type='CenterCrop', crop_size=56),
            ],
        ],
    )
    def test_steps_are_those_of_mm(self, steps):
        pytest.importorskip('mmpretrain')
        from mmengine.registry import TRANSFORMS, DefaultScope

        from mmhatnet.deploy.export import describe_steps

        data = dict(pipeline=[*steps, dict(type='PackInputs')])
        cfg = Config(dict(test_dataloader=dict(dataset=data)))
        image = np.random.default_rng(0).integers(0, 256, (75, 101, 3))
        image = expected = image.astype(np.uint8)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            for step in steps:
                results = TRANSFORMS.build(step)(
                    dict(img=expected, img_shape=expected.shape[:2])
                )
                expected = results['img']
        for step in describe_steps(cfg):
            image = runtime.apply_step(image, step)
        assert (image == expected).all()

    def test_unknown_step(self):
        with pytest.raises(ValueError, match="no step 'rotate'"):
            runtime.apply_step(np.zeros((4, 4, 3)), dict(step='rotate'))


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


def test_models_that_cannot_be_exported():
    name = 'cascade-mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
    cfg = load_model_config(name)
    cfg.model.backbone.arch = SMALL_ARCH
    cfg.model.neck.in_channels = list(SMALL_ARCH['embed_dims'])
    with pytest.raises(ValueError, match='a CascadeRCNN cannot be exported'):
        make_graph(mmhatnet.get_model(cfg))
