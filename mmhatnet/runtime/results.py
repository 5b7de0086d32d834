"""Results of models of any task, ready for JSON, and their pictures.

The functions for the tasks take an image (H, W, 3), BGR, 8 bits, or None for
no picture, and the names and the colours, RGB, of the classes, which may be
empty. They return the result, the picture and, for a segmentor, the labels.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .arrays import encode

READABLE = 384  # pixels of a side; pictures of smaller images are enlarged
Colour = tuple[int, int, int]
Result = tuple[dict, np.ndarray | None, np.ndarray | None]


def classification(
    image: np.ndarray | None,
    scores: Sequence[float],
    classes: Sequence[str],
    top: int = 5,
) -> Result:
    """Build the result of a classifier: the ``top`` best of its classes."""
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[:top]
    found = [_entry(i, classes, score=float(scores[i])) for i in best]
    picture = None
    if image is not None:
        lines = [(caption(entry), None) for entry in found]
        picture = _write_legend(_enlarge(image)[0], lines)
    return dict(classes=found), picture, None


def segmentation(
    image: np.ndarray | None,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Result:
    """Build the result of a segmentor from the label of each pixel, (H, W)."""
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
    found, counts = np.unique(labels, return_counts=True)
    shares = sorted(zip(counts / labels.size, found, strict=True))
    entries, colours = [], np.zeros((int(labels.max()) + 1, 3), np.uint8)
    for share, label in reversed(shares):
        colours[label] = colour = _colour(label, palette)
        values = dict(share=float(share), color=list(colour))
        entries.append(_entry(label, classes, **values))
    picture = None
    if image is not None and image.shape[:2] == labels.shape:
        painted = np.ascontiguousarray(colours[labels][..., ::-1])
        mixed = cv2.addWeighted(image, 0.4, painted, 0.6, 0)
        lines = [(caption(x), tuple(x['color'])) for x in entries]
        picture = _write_legend(_enlarge(mixed)[0], lines)
    return dict(classes=entries), picture, labels


def detection(
    image: np.ndarray | None,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    masks: Iterator[np.ndarray] | None,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Result:
    """Build the result of a detector.

    Boxes are (objects, 4), left, top, right and bottom in pixels; scores and
    labels (objects,). Masks, if there are some, are (H, W), bool.
    """
    colours = [_colour(label, palette) for label in labels]
    drawn = None if image is None else image.copy()
    objects = []
    for i, label in enumerate(labels):
        values = dict(score=float(scores[i]), bbox=boxes[i].tolist())
        if masks is not None:
            mask = next(masks)
            values.update(mask=encode(mask), area=int(mask.sum()))
            if drawn is not None:
                ground = np.array(colours[i][::-1])
                drawn[mask] = 0.5 * drawn[mask] + 0.5 * ground
        objects.append(_entry(label, classes, **values))
    if drawn is None:
        return dict(objects=objects), None, None
    picture, factor = _enlarge(drawn)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    line = max(2, max(picture.shape) // 400)
    for box, entry, colour in zip(
        reversed(boxes), reversed(objects), reversed(colours), strict=True
    ):
        left, top, right, bottom = (round(factor * x) for x in box.tolist())
        right, bottom = max(left, right), max(top, bottom)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        _write_label(draw, caption(entry), (left, top), colour)
    return dict(objects=objects), np.asarray(canvas), None


def caption(entry: dict) -> str:
    """Write a class or an object for people: ``tree 0.39``, ``tree 61 %``.

    An object that is certain, such as the truth, has its name alone.
    """
    if 'share' in entry:
        percent = f'{100 * entry["share"]:.0f}'
        return f'{entry["name"]} {"<1" if percent == "0" else percent} %'
    score = '' if entry['score'] == 1 else f' {entry["score"]:.2f}'
    return entry['name'] + score


def enlargement(height: int, width: int) -> int:
    """Get the factor, at least 1, by which pictures of images are enlarged."""
    return max(1, round(READABLE / max(height, width)))


def _entry(label: int, classes: Sequence[str], **values: Any) -> dict:
    known = 0 <= label < len(classes)
    name = classes[label] if known else str(label)
    return dict(label=int(label), name=name, **values)


def _colour(label: int, palette: Sequence[Sequence[int]]) -> Colour:
    """RGB of a class: from the palette, or a colour of its own."""
    if 0 <= label < len(palette):
        red, green, blue = map(int, palette[label])
    else:
        hue = np.array([[[37 * int(label) % 180, 200, 230]]], np.uint8)
        red, green, blue = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _enlarge(image: np.ndarray) -> tuple[np.ndarray, int]:
    """Make an RGB picture, large enough for text, and its factor."""
    factor = enlargement(*image.shape[:2])
    size = [factor * side for side in image.shape[1::-1]]
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(enlarged[..., ::-1]), factor


def _font(
    height: int, text: str
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    size = min(32, max(13, height // 32))
    if not text.isascii():  # which Pillow's own font lacks
        with suppress(OSError):
            return ImageFont.truetype('DejaVuSans.ttf', size)
        with suppress(ImportError, OSError):
            from matplotlib.font_manager import findfont

            return ImageFont.truetype(findfont('DejaVu Sans'), size)
    return ImageFont.load_default(size)


def _write_label(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple, colour: Colour
) -> None:
    """Write above a box, or inside it at the top of the picture."""
    font = _font(max(draw.im.size), text)
    width, height = draw.textbbox((0, 0), text, font)[2:]
    x = max(0, min(corner[0], draw.im.size[0] - width - 6))
    y = corner[1] - height - 4
    y = max(0, corner[1] if y < 0 else y)
    draw.rectangle((x, y, x + width + 6, y + height + 4), fill=colour)
    draw.text((x + 3, y + 1), text, _contrast(colour), font)


def _contrast(colour: Colour) -> str:
    """Black or white, whichever is readable on a colour."""
    luminance = np.dot(colour, (0.299, 0.587, 0.114))
    return 'black' if luminance > 140 else 'white'


def _write_legend(
    picture: np.ndarray, lines: Sequence[tuple[str, Colour | None]]
) -> np.ndarray:
    """Write captions on a dark ground, as many as fit, with their colours."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas, 'RGBA')
    font = _font(max(canvas.size), ''.join(text for text, _ in lines))
    step = int(draw.textbbox((0, 0), 'Ag', font)[3]) + 4
    lines = lines[: max(1, (canvas.height - 12) // step)]
    chip = step if any(colour for _, colour in lines) else 0
    widths = [draw.textlength(text, font) for text, _ in lines]
    ground = 4, 4, 16 + chip + max(widths), 10 + step * len(lines)
    draw.rectangle(ground, fill=(0, 0, 0, 170))
    for number, (text, colour) in enumerate(lines):
        y = 8 + step * number
        if colour:
            square = 9, y + 2, 9 + chip - 6, y + chip - 4
            draw.rectangle(square, fill=colour, outline='white')
        draw.text((10 + chip, y), text, 'white', font)
    return np.asarray(canvas)
