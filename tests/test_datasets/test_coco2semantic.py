import json

import numpy as np
import pytest
from helpers import TOOLS, call_tool, run_tool
from PIL import Image
from pycocotools import mask as mask_utils

from mmhatnet.datasets import (
    coco_to_semantic,
)

COCO2SEMANTIC = TOOLS / 'dataset_converters' / 'coco2semantic.py'


@pytest.fixture
def instances():
    """COCO's JSON for an empty image and an image with five instances."""
    crowd = np.zeros((10, 20), np.uint8)
    crowd[:, :12] = 1
    runs = [0, 120, 80]  # of 0, 1, 0, by columns
    small = np.zeros((10, 20), np.uint8, order='F')
    small[4:6, 4:6] = 1
    compressed = mask_utils.encode(small)
    compressed['counts'] = compressed['counts'].decode()
    keys = 'category_id', 'iscrowd', 'segmentation'
    objects = [
        (70, 0, compressed),
        (3, 1, dict(size=[10, 20], counts=runs)),
        (9, 0, [[2, 2, 8, 2, 8, 8, 2, 8]]),
        (3, 0, [[14, 0, 16, 0, 16, 2, 14, 2], [14, 8, 16, 8, 16, 10, 14, 10]]),
        (3, 0, dict(size=[10, 20], counts=[190, 10])),
    ]
    return dict(
        images=[
            dict(id=7, file_name='a/one.two.jpg', height=10, width=20),
            dict(id=5, file_name='empty.png', height=3, width=4),
        ],
        annotations=[
            dict(zip(keys, each, strict=True), id=n, image_id=7)
            for n, each in enumerate(objects)
        ],
        categories=[
            dict(id=70, name='small'),
            dict(id=3, name='first'),
            dict(id=9, name='large'),
        ],
    )


class TestCocoToSemantic:
    @pytest.fixture
    def convert(self, tmp_path):
        def convert(instances):
            (tmp_path / 'coco.json').write_text(json.dumps(instances))
            classes = coco_to_semantic(
                tmp_path / 'coco.json', tmp_path / 'out'
            )
            return classes, {
                file.name: np.array(Image.open(file))
                for file in (tmp_path / 'out').iterdir()
            }

        return convert

    def test_labels(self, convert, instances):
        classes, maps = convert(instances)
        assert classes == ('background', 'first', 'large', 'small')
        assert set(maps) == {'one.two.png', 'empty.png'}
        np.testing.assert_array_equal(
            maps['empty.png'], np.zeros((3, 4), np.uint8)
        )
        expected = np.zeros((10, 20), np.uint8)
        expected[:, :12] = 255
        expected[2:8, 2:8] = 2
        expected[4:6, 4:6] = 3
        expected[0:2, 14:16] = expected[8:10, 14:16] = 1
        expected[:, 19] = 1
        np.testing.assert_array_equal(maps['one.two.png'], expected)
        assert maps['one.two.png'].dtype == np.uint8

    @pytest.mark.parametrize(
        'segmentation',
        [
            None,
            [],
            [[0, 0, 5, 5]],
            [[0, 0, 5, 5, float('nan'), 3]],
            [[0, 0, 5, 5, 1e9, 3]],
            dict(size=[20, 10], counts=[200]),
        ],
    )
    def test_refuses_wrong_segmentations(
        self, convert, instances, segmentation
    ):
        instances['annotations'][2]['segmentation'] = segmentation
        with pytest.raises(ValueError, match='annotation 2: .* 20x10 pixels'):
            convert(instances)

    @pytest.mark.parametrize(
        ('part', 'change', 'message'),
        [
            ('annotations', dict(category_id=1234), '1234'),
            ('annotations', dict(image_id=1234), '1234'),
            ('images', dict(file_name='a/empty.gif'), 'would share empty.png'),
            ('images', dict(file_name=5), 'COCO instances: TypeError'),
            ('images', dict(id=5), 'two images have the same id'),
            ('categories', dict(id=3), 'two categories have the same id'),
            ('images', dict(width=2**30), 'has 1073741824x10 pixels'),
        ],
    )
    def test_refuses(self, part, change, message, convert, instances):
        instances[part][0].update(change)
        with pytest.raises(ValueError, match=message):
            convert(instances)

    def test_refuses_too_many_categories(self, convert, instances):
        names = [dict(id=n, name=f'{n}') for n in range(1, 255)]
        classes, maps = convert({**instances, 'categories': names})
        assert len(classes) == 255
        names.append(dict(id=255, name='255'))
        with pytest.raises(ValueError, match='254'):
            convert({**instances, 'categories': names})

    def test_numbers_of_other_tools(self, convert, instances):
        """Pandas makes 5.0 of 5."""
        expected = convert(instances)
        for entry in instances['images']:
            entry.update(
                {key: float(entry[key]) for key in ('id', 'height', 'width')}
            )
        for entry in instances['annotations']:
            entry.update(image_id=7.0, category_id=float(entry['category_id']))
        classes, maps = convert(instances)
        assert classes == expected[0]
        np.testing.assert_equal(maps, expected[1])

    @pytest.mark.default_stack
    def test_system_without_utf8(self, instances, tmp_path):
        """JSON is UTF-8 there, too, and the error is not the whole file."""
        instances['categories'][0]['name'] = 'Größe'
        text = json.dumps(instances, ensure_ascii=False)
        file = tmp_path / 'coco.json'
        for encoding in ('utf-8', 'utf-8-sig', 'utf-16'):
            file.write_text(text, encoding)
            assert 'Größe' in coco_to_semantic(file, tmp_path / 'out')
        env = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
        output = run_tool(COCO2SEMANTIC, file, tmp_path / 'out', **env)
        assert 'num_classes = 4\n' in output
        assert r"'Gr\xf6\xdfe')" in output
        file.write_bytes((text * 99).encode('latin-1'))
        output = call_tool(COCO2SEMANTIC, file, tmp_path / 'out', code=1)
        assert 'does not contain COCO instances: UnicodeDecodeError' in output
        assert len(output) < 500

    @pytest.mark.default_stack
    @pytest.mark.parametrize('text', [None, 'no JSON', '[]'])
    def test_tool_names_a_wrong_file(self, tmp_path, text):
        file = tmp_path / 'coco.json'
        if text is not None:
            file.write_text(text)
        output = call_tool(COCO2SEMANTIC, file, tmp_path / 'out', code=1)
        assert str(file) in output
        assert output.count('\n') == 1
        assert not (tmp_path / 'out').exists()
