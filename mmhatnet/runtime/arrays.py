"""Array operations on images before a model, and on its results."""

import cv2
import numpy as np

SMALLEST = 32  # pixels of a side
LARGEST = 2**27  # pixels after a step, which need a gigabyte and a half
INTERPOLATION = dict(
    nearest=cv2.INTER_NEAREST,
    bilinear=cv2.INTER_LINEAR,
    bicubic=cv2.INTER_CUBIC,
    area=cv2.INTER_AREA,
    lanczos=cv2.INTER_LANCZOS4,
)


def check_size(h: int, w: int) -> None:
    """Check that no side of an image is too small; raises ValueError."""
    if min(h, w) < SMALLEST:
        raise ValueError(
            f'HATNet needs images of at least {SMALLEST}x{SMALLEST} pixels, '
            f'got {h}x{w} (H x W)'
        )


def best_class(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Find the class of each pixel, (height, width), after a change of size.

    Args:
        logits (ndarray): (classes, H, W).
        size (tuple[int, int]): Width and height of the result.
    """
    # One class after the other, since all of a large image need gigabytes.
    best = np.full(size[::-1], -np.inf, np.float32)
    labels = np.zeros(size[::-1], np.int64)
    for label, values in enumerate(logits):
        values = cv2.resize(values, size)
        better = values > best
        best[better], labels[better] = values[better], label
    return labels


def apply_step(image: np.ndarray, step: dict) -> np.ndarray:
    """Apply a step of the metadata to an image, (H, W, 3), 8 bits.

    Raises:
        ValueError: If it would have more than LARGEST pixels.
    """
    h, w = image.shape[:2]
    if step['step'] == 'center_crop':
        size = step['size']
        top, left = (max(0, round((side - size) / 2)) for side in (h, w))
        return image[top : top + size, left : left + size]
    scale = step.get('scale', 1)
    if step['step'] == 'resize_factor':
        size = [max(1, int(side * step['factor'] + 0.5)) for side in (w, h)]
    elif step['step'] == 'resize_short_edge':
        size = [int(scale * side / min(h, w)) for side in (w, h)]
    elif step['keep_ratio']:
        factor = min(max(scale) / max(h, w), min(scale) / min(h, w))
        size = [max(1, int(side * factor + 0.5)) for side in (w, h)]
    else:
        size = scale
    if size[0] * size[1] > LARGEST:
        raise ValueError(
            f'{w}x{h} pixels would become {size[0]}x{size[1]}: crop the image '
            'first'
        )
    if step['backend'] == 'pillow':
        from PIL import Image

        method = getattr(Image.Resampling, step['interpolation'].upper())
        return np.asarray(Image.fromarray(image).resize(size, method))
    method = INTERPOLATION[step['interpolation']]
    return cv2.resize(image, size, interpolation=method)


def prepare(image: np.ndarray, metadata: dict) -> np.ndarray:
    """Make the input of a model, (1, 3, H', W'), float32, from an image.

    Args:
        image (ndarray): (H, W, 3), BGR, 8 bits.
        metadata (dict): The metadata of the file.

    Raises:
        ValueError: If it is smaller than 32x32 pixels after the steps.
    """
    for step in metadata['steps']:
        image = apply_step(image, step)
    check_size(*image.shape[:2])
    if metadata['channels'] == 'RGB':
        image = image[..., ::-1]
    return np.ascontiguousarray(
        image.transpose(2, 0, 1)[None], dtype=np.float32
    )


def paste(
    mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Paste a mask into an image, (H, W), bool.

    Args:
        mask (ndarray): Probabilities inside the box, (side, side).
        box (ndarray): (4,), left, top, right and bottom in pixels.
        shape (tuple[int, int]): Height and width of the image.
    """
    left, top, right, bottom = box
    sides = np.maximum([right - left, bottom - top], 1e-6)
    scale = np.array(mask.shape[::-1]) / sides
    # Centres of pixels of the image, in pixels of the mask.
    x = (np.arange(shape[1]) + 0.5 - left) * scale[0] - 0.5
    y = (np.arange(shape[0]) + 0.5 - top) * scale[1] - 0.5
    found = cv2.remap(
        mask,
        np.tile(x.astype(np.float32), (shape[0], 1)),
        np.tile(y.astype(np.float32)[:, None], (1, shape[1])),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return found >= 0.5


def encode(mask: np.ndarray) -> dict:
    """Encode a mask (H, W) by COCO's run lengths, as pycocotools does."""
    flat = np.pad(mask.flatten(order='F').astype(np.int8), 1)
    edges = np.flatnonzero(np.diff(flat)).tolist()
    runs = np.diff([0, *edges, mask.size]).tolist()
    if len(runs) > 1 and not runs[-1]:
        runs.pop()  # the last pixel is inside
    text = []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(bits + (32 if more else 0) + 48))
    return dict(size=list(mask.shape), counts=''.join(text))
