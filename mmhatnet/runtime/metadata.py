"""The metadata of an ONNX file, which may be untrusted."""

import json

from PIL import Image

from .arrays import INTERPOLATION

METADATA = 'mmhatnet'  # the key
# The names of the outputs, in order, by the kind of result.
OUTPUTS = dict(
    classification=('scores',),
    segmentation=('labels', 'logits'),
    detection=('boxes', 'scores', 'labels'),
    instances=('boxes', 'scores', 'labels', 'masks'),
)
LARGEST = 8192  # pixels of a side
LONGEST = 1000  # characters of the name of a class
MOST_STEPS = 8  # before a model
MOST_ROWS = 1000  # of a curve
MOST_FACTOR = 16  # of sizes
# The arguments of the steps before a model, with an example of each.
STEPS: dict[str, dict[str, object]] = dict(
    center_crop=dict(size=1),
    resize_factor=dict(factor=1.0, interpolation='', backend=''),
    resize_short_edge=dict(scale=1, interpolation='', backend=''),
    resize=dict(scale=[], keep_ratio=True, interpolation='', backend=''),
)
METHODS = dict(
    cv2=set(INTERPOLATION),
    pillow=set(map(str.lower, Image.Resampling.__members__)),
)
BAD_METADATA = (
    *(AttributeError, KeyError, RecursionError),
    *(TypeError, ValueError),
)


def has_batches(kind: str) -> bool:
    """Whether a file of a kind takes several images at once."""
    return kind in ('classification', 'segmentation')


def read_metadata(text: str) -> dict:
    """Read the metadata of a file, in JSON, which may be untrusted.

    Raises:
        BAD_METADATA: If it is not JSON, or a part is missing or impossible.
    """
    found = json.loads(text)
    classes, steps = found['classes'], found['steps']
    if found['kind'] not in OUTPUTS or found['channels'] not in ('RGB', 'BGR'):
        raise ValueError(
            f'kind {found["kind"]!r:.60}, channels {found["channels"]!r:.60}'
        )
    if not all(isinstance(each, list) for each in (classes, steps)):
        raise TypeError('classes and steps are lists')
    if len(steps) > MOST_STEPS:
        raise ValueError(f'{len(steps)} steps')
    for name in classes:
        # Other names may control or fill the terminal.
        if not name.isprintable() or len(name) > LONGEST:
            raise ValueError(f'the class {name[:20]!r}')
    for step in steps:
        check_step(step)
    for colour in found.setdefault('palette', []):
        if [type(value) for value in colour] != [int] * 3 or not (
            0 <= min(colour) <= max(colour) <= 255
        ):
            raise ValueError(f'the colour {colour!r:.60}')
    check_curve(found.get('curve', {}))
    return found


def check_curve(curve: dict) -> None:
    """Check what was measured with several sizes, G1 and G2.

    Raises:
        BAD_METADATA: If a part is missing or impossible.
    """
    rows = curve.get('rows', [])
    if len(rows) > MOST_ROWS:
        raise ValueError(f'a curve of {len(rows)} rows')
    for row in rows:
        metric, ms = float(row['metric']), float(row['ms'])
        if not (0 <= metric <= 1e6 and 0 < ms <= 1e9):
            raise ValueError(f'{metric} or {ms} ms in the curve')
        if not 0 < float(row['factor']) <= MOST_FACTOR:
            raise ValueError(f'a factor of {row["factor"]!r:.20}')


def check_step(step: dict) -> None:
    """Check that a step is known and has its arguments; else BAD_METADATA."""
    name = step['step']
    if name not in STEPS:
        raise ValueError(
            f'no step {name!r:.60}: the file is of a newer mmhatnet'
        )
    for argument, example in STEPS[name].items():
        if type(step[argument]) is not type(example):
            raise TypeError(f'{argument} of the step {name}')
    if not 0 < step.get('factor', 1) <= MOST_FACTOR:
        raise ValueError(f'a factor of {step["factor"]!r:.20}')
    sizes = step.get('scale', step.get('size', 1))
    for size in sizes if isinstance(sizes, list) else [sizes]:
        if type(size) is not int or not 1 <= size <= LARGEST:
            raise ValueError(f'a size of {size!r:.20} in the step {name}')
    if isinstance(sizes, list) and len(sizes) != 2:
        raise ValueError(f'{len(sizes)} sizes in the step {name}')
    method = step.get('interpolation', 'nearest')
    if method not in METHODS[step.get('backend', 'cv2')]:
        raise ValueError(f'{method!r:.20} in the step {name}')
