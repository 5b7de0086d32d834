"""Exported files, and those who run them."""

import json
import re
import shutil
import subprocess
import sys

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
from mmhatnet.deploy.quantization import (
    PRODUCTS,
    read_images,
    to_float16,
    to_int8,
)
from mmhatnet.deploy.verification import objects_error
from mmhatnet.deploy.writer import share_weights, write_hashes
from mmhatnet.runtime import OnnxModel
from mmhatnet.runtime.metadata import METADATA

EXPORT = TOOLS / 'deployment' / 'export.py'
INFER = TOOLS / 'infer.py'
EVALUATE = TOOLS / 'deployment' / 'evaluate.py'
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
            output = call_tool(
                EXPORT, EXPORTABLE[kind], weights, '--out', path
            )
            assert '| 97x353 |' in output
            assert 'no box was compared' not in output
            done[kind] = cfg, str(weights), path
        return done[kind]

    return export


def change_metadata(path, folder, change):
    """A copy of a file with other metadata, and without its hash."""
    onnx = pytest.importorskip('onnx')
    proto = onnx.load(path)
    props = {each.key: each.value for each in proto.metadata_props}
    props[METADATA] = json.dumps(json.loads(props[METADATA]) | change)
    onnx.helper.set_model_props(proto, props)
    onnx.save(proto, folder / path.name)
    return folder / path.name


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


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['model.onnx', 'model.pth', 'a.jpg'], 'leave out the checkpoint'),
        (['tree-detector', 'a.jpg', '--score-thr', '7'], 'from 0 to 1'),
        (['model.onnx', 'a.jpg', '--score-thr', 'nan'], 'from 0 to 1'),
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
            *(EXPORT, EXPORTABLE['classification'], weights),
            *('--format', 'torch-export', '--out', tmp_path / 'model.pt2'),
        )
        assert '| 97x353 |' in output
        assert (tmp_path / 'model.pt2').exists()

    def test_metadata(self, exported):
        path = exported('segmentation')[2]
        found = OnnxModel(path).metadata
        assert found['kind'] == 'segmentation'
        assert found['channels'] == 'RGB'
        assert found['classes'][:2] == ['background', 'disk']
        assert (found['G1'], found['G2']) == ([8, 8, 8], [8, 4, 2])
        assert len(found['checkpoint_sha256']) == 64
        assert found['versions']['torch'].startswith('2.')

        # torch.onnx writes the paths and lines of the source code.
        contents = path.read_bytes()
        assert str(ROOT).encode() not in contents
        assert b'stack_trace' not in contents

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

    def test_shared_weights(self, exported, image, tmp_path):
        path = exported('segmentation')[2]
        expected = OnnxModel(path).predict(image)[2]
        files = [shutil.copy(path, tmp_path / f'{i}.onnx') for i in range(2)]
        data = share_weights(files, 'seg')
        assert re.fullmatch(r'seg-[0-9a-f]{8}\.data', data.name)
        sizes = [each.stat().st_size for each in tmp_path.iterdir()]
        assert sum(sizes) < 1.5 * path.stat().st_size
        for file in files:
            found = OnnxModel(file).predict(image)[2]
            assert (found == expected).all()
        contents = bytearray(data.read_bytes())
        contents[len(contents) // 2] ^= 64
        record = write_hashes([file, data])
        OnnxModel(file)
        data.write_bytes(contents)
        with pytest.raises(ValueError, match='data is missing or was changed'):
            OnnxModel(file)
        record.unlink()
        for damage in lambda: data.write_bytes(b'weights'), data.unlink:
            damage()
            with pytest.raises(ValueError, match='needs its complete file of'):
                OnnxModel(file)

    def test_damaged_weights(self, exported, tmp_path):
        """Of a file that onnxruntime still loads."""
        onnx = pytest.importorskip('onnx')
        path = exported('classification')[2]
        proto = onnx.load(path)
        largest = max(proto.graph.initializer, key=lambda x: len(x.raw_data))
        largest.raw_data = len(largest.raw_data) * b'\xff'
        damaged, record = tmp_path / path.name, f'{path.name}.sha256'
        shutil.copy(path.with_name(record), tmp_path)
        onnx.save(proto, damaged)
        with pytest.raises(ValueError, match='is missing or was changed'):
            OnnxModel(damaged)
        (tmp_path / record).unlink()
        scores = OnnxModel(damaged).run(np.zeros((1, 3, 64, 64), np.float32))
        assert np.isnan(scores).all()

    @pytest.mark.parametrize(
        'change',
        [
            dict(classes=['one']),
            dict(kind='segmentation'),
            dict(kind='instances'),
        ],
    )
    def test_metadata_of_another_model(self, change, exported, tmp_path):
        path = change_metadata(exported('classification')[2], tmp_path, change)
        with pytest.raises(ValueError, match='invalid metadata'):
            OnnxModel(path)

    def test_data_of_another_model(self, exported, demo_folder, tmp_path):
        args = EVALUATE, 'tree-detector', exported('classification')[2]
        output = call_tool(*args, code=1, cwd=tmp_path)
        assert 'does classification, and the config is for mmdet' in output
        path = exported('classification')[2]
        path = change_metadata(path, tmp_path, dict(classes=list('abcdef')))
        output = call_tool(
            *(EVALUATE, EXPORTABLE['classification'], path),
            code=1,
            cwd=demo_folder,
        )
        assert 'of the test data' in output.splitlines()[-1]

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

    def test_in_node(self, exported, tmp_path):
        """The program of the documentation."""
        command = 'node', '--input-type=module', '-e'
        found = shutil.which('node') and subprocess.run(
            [*command, 'import "onnxruntime-web"'],
            cwd=ROOT,
            capture_output=True,
        )
        if not found or found.returncode:
            pytest.skip('needs node with onnxruntime-web')
        path = exported('classification')[2]
        path = change_metadata(path, tmp_path, dict(classes=list('abcdef')))
        page = (ROOT / 'docs' / 'deployment.md').read_text()
        (program,) = re.findall(r'```js\n(.*?)```', page, re.DOTALL)
        program = program.replace('exports/cifar10-classifier.onnx', str(path))
        output = subprocess.check_output([*command, program], cwd=ROOT)
        name, score = output.decode().split()
        model = OnnxModel(path)
        images = np.full((1, 3, 101, 77), 99, np.float32)
        (scores,) = model.run(images)[0]
        assert name == model.metadata['classes'][scores.argmax()]
        assert float(score) == pytest.approx(scores.max(), abs=1e-4)

    def test_errors_in_one_line(self, exported, image, tmp_path):
        path = exported('classification')[2]
        damaged = tmp_path / 'damaged.onnx'
        damaged.write_bytes(path.read_bytes()[:1000])
        foreign = tmp_path / 'foreign.onnx'
        onnx = pytest.importorskip('onnx')
        proto = onnx.load(path)
        del proto.metadata_props[:]
        onnx.save(proto, foreign)
        out = '--out-dir', tmp_path / 'out'
        for file, text in (
            (damaged, 'is not an ONNX model, or is damaged'),
            (foreign, 'has no metadata of mmhatnet'),
            (tmp_path / 'absent.onnx', 'no model at'),
        ):
            output = call_tool(INFER, file, image, *out, code=1)
            assert output.count('\n') == 1
            assert text in output
        model = OnnxModel(path)
        for shape, message in (
            ((1, 3, 31, 64), 'at least 32x32 pixels, got 31'),
            ((3, 64, 64), r'images are \(N, 3, H, W\)'),
            ((0, 3, 64, 64), r'images are \(N, 3, H, W\)'),
        ):
            with pytest.raises(ValueError, match=message):
                model.run(np.zeros(shape, np.float32))
        detector = OnnxModel(exported('detection')[2])
        with pytest.raises(ValueError, match='one image at a time'):
            detector.run(np.zeros((2, 3, 64, 64), np.float32))
        half = tmp_path / 'half.png'
        half.write_bytes(image.read_bytes()[:9000])
        with pytest.raises(ValueError, match='half.png: image file is trunc'):
            model.predict(half)
