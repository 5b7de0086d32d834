"""Exported files, and those who run them."""

import json
import platform
import re
import shutil
import subprocess
import sys
from operator import itemgetter

import cv2
import numpy as np
import pytest
import torch
from helpers import (
    DETECTORS,
    EXPORTABLE,
    ROOT,
    TOOLS,
    call_tool,
    needs_export,
    scale_predictions,
)

import mmhatnet
from mmhatnet.apis.inference import get_inferencer, predict
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.deploy.graphs import make_graph
from mmhatnet.deploy.quantization import (
    PRODUCTS,
    read_images,
    to_float16,
    to_int8,
)
from mmhatnet.deploy.verification import as_arrays, objects_error
from mmhatnet.runtime import OnnxModel
from mmhatnet.runtime.metadata import METADATA

EXPORT = TOOLS / 'deployment' / 'export.py'
INFER = TOOLS / 'infer.py'
EVALUATE = TOOLS / 'deployment' / 'evaluate.py'
CURVE = TOOLS / 'deployment' / 'measure_curve.py'
METRIC = re.compile(r'(?:mIoU|segm_mAP|top1): +([\d.]+)')


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    """A photograph of an odd size."""
    skimage = pytest.importorskip('skimage')
    picture = cv2.imread(f'{skimage.__path__[0]}/data/coffee.png')
    path = tmp_path_factory.mktemp('image') / 'coffee.png'
    cv2.imwrite(str(path), picture[:233, :301])
    return path


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Function that exports a random model, once: config, weights, file."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    folder, done = tmp_path_factory.mktemp('exported'), {}

    def export(kind):
        if kind not in done:
            cfg = load_model_config(EXPORTABLE[kind])
            torch.manual_seed(0)
            model = mmhatnet.get_model(cfg)
            if kind in DETECTORS:
                scale_predictions(model)
            weights, path = folder / f'{kind}.pth', folder / f'{kind}.onnx'
            torch.save(dict(state_dict=model.state_dict()), weights)
            free = ['--free-grids'] * (kind == 'segmentation')
            output = call_tool(
                EXPORT, EXPORTABLE[kind], weights, *free, '--out', path
            )
            assert '| 97x353 |' in output
            assert 'no box was compared' not in output
            done[kind] = cfg, str(weights), path
        return done[kind]

    return export


@pytest.fixture
def classifier(exported):
    return exported('classification')[2]


def change_file(path, folder, change):
    """A copy of a file with other metadata or no, and without its hash."""
    onnx = pytest.importorskip('onnx')
    proto = onnx.load(path)
    found = json.loads(proto.metadata_props[0].value)
    del proto.metadata_props[:]
    if change:
        text = json.dumps(found | change)
        onnx.helper.set_model_props(proto, {METADATA: text})
    onnx.save(proto, folder / path.name)
    return folder / path.name


def compare_objects(found, expected, with_masks):
    """Compare the objects of two results, and the masks of equal boxes."""
    keys = 'bbox', 'score', 'name'
    arrays = [
        [np.array([each[key] for each in objects]) for key in keys]
        for objects in (found, expected)
    ]
    error, count = objects_error(*arrays)
    assert error < 1e-3
    assert count > 0
    if with_masks:
        decode = pytest.importorskip('pycocotools.mask').decode
        errors = [
            (decode(a['mask']) != decode(b['mask'])).mean()
            for a, b in zip(found, expected, strict=True)
            if np.allclose(a['bbox'], b['bbox'], atol=0.1)
        ]
        assert len(errors) > len(found) / 2
        assert max(errors) < 0.02


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['model.onnx', 'model.pth', 'a.jpg'], 'leave out the checkpoint'),
        (['tree-detector', 'a.jpg', '--score-thr', '7'], 'from 0 to 1'),
        (['name', 'model.onnx', 'a.jpg'], 'MODEL.onnx comes first'),
        (['model.pt2', 'a.jpg'], 'export it as *.onnx'),
    ],
)
def test_wrong_arguments(arguments, message):
    output = call_tool(INFER, *arguments, code=2)
    assert message in output.splitlines()[-1]


@needs_export
@pytest.mark.slow
class TestOnnx:
    @pytest.mark.parametrize('kind', EXPORTABLE)
    def test_same_result_as_the_checkpoint(self, kind, exported, image):
        cfg, weights, path = exported(kind)
        model = OnnxModel(path)
        found, picture, labels = model.predict(image, score_thr=0)
        inferencer = get_inferencer(cfg, weights, 'cpu')
        expected, other, masks = predict(inferencer, image, score_thr=0)
        assert picture.dtype == np.uint8
        assert picture.shape == other.shape
        if labels is not None:
            assert (labels != masks).mean() < 1e-3
        (name,) = expected
        assert len(found[name]) == len(expected[name]) > 0
        if kind in DETECTORS:
            masks = kind == 'instances'
            compare_objects(found[name], expected[name], masks)
            return
        for a, b in zip(found[name], expected[name], strict=True):
            assert a['name'] == b['name']
            for key in {'score', 'share'} & b.keys():
                assert a[key] == pytest.approx(b[key], rel=1e-2, abs=1e-2)

    def test_torch_export(self, exported, tmp_path):
        _, weights, _ = exported('classification')
        output = call_tool(
            *(EXPORT, EXPORTABLE['classification'], weights),
            *('--format', 'torch-export', '--out', tmp_path / 'model.pt2'),
        )
        assert '| 97x353 |' in output
        assert (tmp_path / 'model.pt2').exists()

    def test_metadata(self, exported, tmp_path):
        path = exported('segmentation')[2]
        found = OnnxModel(path).metadata
        assert found['channels'] == 'RGB'
        assert found['classes'][:2] == ['background', 'disk']
        assert (found['G1'], found['G2']) == ([8, 8, 8], [8, 4, 2])
        assert len(found['checkpoint_sha256']) == 64
        # torch.onnx writes the paths and lines of the source code.
        contents = path.read_bytes()
        assert str(ROOT).encode() not in contents
        assert b'stack_trace' not in contents
        for change in dict(classes=['one']), dict(kind='instances'):
            changed = change_file(path, tmp_path, change)
            with pytest.raises(ValueError, match='invalid metadata'):
                OnnxModel(changed)

    def test_precision(self, exported, image, tmp_path):
        path = exported('segmentation')[2]
        model = OnnxModel(path)
        expected = model.predict(image)[2]
        images = read_images([image], model.metadata)
        sizes = [path.stat().st_size]
        for name, convert, arguments in (
            ('half', to_float16, []),
            ('int8', to_int8, [images]),
        ):
            file = shutil.copy(path, tmp_path / f'{name}.onnx')
            convert(file, *arguments)
            sizes.append(file.stat().st_size)
            labels = OnnxModel(file).predict(image)[2]
            assert (labels == expected).mean() > 0.9
        assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]

    def test_boxes_stay_in_float32(self, exported, tmp_path):
        """float16 has steps of 1 pixel above 1024."""
        onnx = pytest.importorskip('onnx')
        file = shutil.copy(exported('instances')[2], tmp_path / 'half.onnx')
        to_float16(file)
        graph, half = onnx.load(file).graph, onnx.TensorProto.FLOAT16
        values = {x.name for x in graph.initializer if x.data_type == half}
        for node in graph.node:
            if node.op_type == 'Cast' and node.attribute[0].i == half:
                values.update(node.output)
        users = {n.op_type for n in graph.node if values & {*n.input}}
        assert {'Conv', 'MatMul'} <= users <= {*PRODUCTS, 'Cast'}

    @pytest.mark.parametrize(
        ('g1', 'g2'), [((8, 8, 8), (8, 4, 2)), ((3, 99, 1), (16, 5, 99))]
    )
    def test_free_grids(self, g1, g2, exported):
        cfg, weights, path = exported('segmentation')
        model = OnnxModel(path)
        model.set_grids(g1, g2)
        graph = make_graph(mmhatnet.get_model(cfg, weights))
        graph.model.backbone.set_grids(g1, g2)
        images = np.random.default_rng(0).random((2, 3, 97, 161)) * 255
        images = images.astype(np.float32)
        expected = as_arrays(graph)(images)[1]
        errors = np.abs(model.run(images)[1] - expected)
        assert errors.max() < 1e-4 * np.abs(expected).max()

    def test_wrong_grids(self, exported, classifier):
        model = OnnxModel(exported('segmentation')[2])
        for g1 in (8, 8), (8, 8, 0), (8, 8, 8.0), (8, 8, 10**6):
            with pytest.raises(ValueError, match='are three integers from 1'):
                model.set_grids(g1)
        with pytest.raises(ValueError, match='are fixed in this file'):
            OnnxModel(classifier).set_grids((8, 8, 8))

    def test_curve(self, exported, image, demo_folder, tmp_path):
        path = tmp_path / 'dial.onnx'
        shutil.copy(exported('segmentation')[2], path)
        arguments = (
            *(EXPORTABLE['segmentation'], path, '--g2', '8,4,2', '16,8,4'),
            *('--factors', 0.5, 1),
        )
        output = call_tool(CURVE, *arguments, cwd=demo_folder)
        assert '| 8, 8, 8 | 16, 8, 4 | x 1 |' in output
        assert (tmp_path / 'dial.png').stat().st_size > 5000
        curve = OnnxModel(path).metadata['curve']
        assert curve['metric'] == 'mIoU'
        settings = [(row['factor'], row['G2'][0]) for row in curve['rows']]
        assert settings == [(0.5, 8), (0.5, 16), (1, 8), (1, 16)]
        assert min(row['ms'] for row in curve['rows']) > 0
        # A larger G2 saves operations, a larger image needs more.
        ranks = sorted(curve['rows'], key=itemgetter('operations'))
        order = [(row['factor'], row['G2'][0]) for row in ranks]
        assert order == [(0.5, 16), (0.5, 8), (1, 16), (1, 8)]
        if platform.system() == 'Linux':
            memory = [row['memory'] for row in curve['rows']]
            assert min(memory[2:]) > 2 * max(memory[:2]) > 2**20
        out = tmp_path / 'out'
        for option in ('--g2', '16,8,4'), ('--budget-ms', 10**5):
            command = INFER, path, image, *option, '--out-dir', out
            assert '1 result' in call_tool(*command, '--overwrite')

    def test_data_of_another_model(self, classifier, demo_folder, tmp_path):
        changed = dict(classes=list('abcdef'))
        changed = change_file(classifier, tmp_path, changed)
        for arguments, message in (
            (('tree-detector', classifier), 'does classification, and the'),
            ((EXPORTABLE['classification'], changed), 'of the test data'),
        ):
            command = EVALUATE, *arguments
            output = call_tool(*command, code=1, cwd=demo_folder)
            assert message in output.splitlines()[-1]

    @pytest.mark.parametrize(
        'kind', ['classification', 'segmentation', 'instances']
    )
    def test_metrics_of_the_checkpoint(self, kind, exported, demo_folder):
        _, weights, path = exported(kind)
        found = []
        for command in (TOOLS / 'test.py', weights), (EVALUATE, path):
            output = call_tool(
                *(command[0], EXPORTABLE[kind], command[1]),
                *('--work-dir', 'work_dirs/exported'),
                cwd=demo_folder,
            )
            found.append(METRIC.findall(output)[-1])
        assert float(found[0]) == pytest.approx(float(found[1]), abs=0.02)

    def test_without_torch_and_mm(self, classifier, image, tmp_path):
        blocked = '\n'.join(
            f'sys.modules[{name!r}] = None'
            for name in ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'tqdm')
        )
        code = f"""
import sys, runpy
{blocked}
sys.argv = ['infer.py', {str(classifier)!r}, {str(image)!r}]
sys.argv += ['--out-dir', {str(tmp_path / 'out')!r}]
runpy.run_path({str(INFER)!r}, run_name='__main__')
"""
        subprocess.run([sys.executable, '-c', code], check=True)
        result = json.loads((tmp_path / 'out' / 'coffee.json').read_text())
        assert len(result['classes']) == 5

    def test_errors_in_one_line(self, exported, classifier, image, tmp_path):
        damaged = tmp_path / 'damaged.onnx'
        damaged.write_bytes(classifier.read_bytes()[:1000])
        for file, text in (
            (damaged, 'is not an ONNX model, or is damaged'),
            (change_file(classifier, tmp_path, {}), 'has no metadata of mmh'),
            (tmp_path / 'absent.onnx', 'no model at'),
        ):
            out = '--out-dir', tmp_path / 'out'
            output = call_tool(INFER, file, image, *out, code=1)
            assert output.count('\n') == 1
            assert text in output
        for kind, shape, message in (
            ('classification', (1, 3, 31, 64), 'at least 32x32 pixels, got'),
            ('classification', (3, 64, 64), r'images are \(N, 3, H, W\)'),
            ('classification', (0, 3, 64, 64), r'images are \(N, 3, H, W\)'),
            ('detection', (2, 3, 64, 64), 'one image at a time'),
        ):
            model = OnnxModel(exported(kind)[2])
            with pytest.raises(ValueError, match=message):
                model.run(np.zeros(shape, np.float32))
        half = tmp_path / 'half.png'
        half.write_bytes(image.read_bytes()[:9000])
        with pytest.raises(ValueError, match='half.png: image file is trunc'):
            model.predict(half)
