"""Videos and webcams, frame by frame.

By OpenCV alone, since mmcv's reader of videos is not where exported files run.
"""

import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from ..runtime.images import max_pixels

VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')
# What is wrong with a file is said by an error. FFmpeg reads this only once.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
RATE = 25.0  # frames per second, where a video or a webcam tells none
PROPERTIES = (
    *(cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT),
    *(cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT),
)


def is_webcam(path: Path) -> bool:
    """Whether a place is the number of a webcam, and not a file."""
    return str(path).isdecimal() and not path.exists()


def is_video(path: Path) -> bool:
    """Whether a place is a webcam, or has the suffix of a video."""
    return path.suffix.lower() in VIDEOS or is_webcam(path)


class Video:
    """The frames, BGR, of a video or of a webcam, which ``q`` and Enter end.

    Args:
        path (Path): The file, or the number of the webcam.

    Raises:
        ValueError: If it cannot be read, or has too many pixels.

    It has a ``rate`` in frames per second, the number of its ``frames``, if
    the file tells it, and whether it is ``live``, a webcam.
    """

    def __init__(self, path: Path) -> None:
        self.live = is_webcam(path)
        cv2.setLogLevel(0)
        name = str(path)
        name.encode()  # raises for invalid text, for which OpenCV crashes
        self._capture = cv2.VideoCapture(int(name) if self.live else name)
        if not self._capture.isOpened():
            raise ValueError(
                'there is no such webcam, or another program uses it'
                if self.live
                else 'it is not a video, is damaged, or OpenCV lacks its codec'
            )
        width, height, rate, frames = map(self._capture.get, PROPERTIES)
        if width * height > max_pixels():
            raise ValueError(
                f'{width:.0f}x{height:.0f} pixels: frames of up to '
                f'{max_pixels():,} are read'
            )
        self.rate = rate if 0 < rate <= 1000 else RATE
        self.frames = int(frames) if 0 < frames < 1e9 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while not (self.live and _is_ended()):
                found, frame = self._capture.read()
                if not found:
                    break
                yield frame
        finally:
            self._capture.release()


@contextmanager
def writing(
    path: Path, video: Video
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Write an MP4 file, which is complete also after Ctrl-C or an error.

    There is none if nothing was written. From a webcam, a picture is repeated
    while the next one is computed, so that time is real.

    Yields:
        Callable: Writes a picture, RGB, in the size of the first frame, for
        the frame that is its second argument.

    Raises:
        ValueError: If OpenCV cannot write such files.
    """
    writer, size = cv2.VideoWriter(), ()
    written, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix='.', dir=path.parent) as folder:
        part = Path(folder, 'video.mp4')  # OpenCV looks at the suffix

        def write(picture: np.ndarray, frame: np.ndarray) -> None:
            nonlocal size, written
            if not written:
                code = cv2.VideoWriter.fourcc(*'mp4v')
                size = frame.shape[1::-1]
                if not writer.open(str(part), code, video.rate, size):
                    raise ValueError('OpenCV cannot write MP4 files here')
            shown = cv2.cvtColor(cv2.resize(picture, size), cv2.COLOR_RGB2BGR)
            passed = time.monotonic() - start if video.live else 0
            for _ in range(max(1, round(passed * video.rate) - written)):
                writer.write(shown)
                written += 1

        try:
            yield write
        finally:
            writer.release()
            if written:
                part.replace(path)


def _is_ended() -> bool:
    """Whether a line with q waits in the terminal."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    waits = select.select([sys.stdin], [], [], 0)[0]
    return bool(waits) and sys.stdin.readline().strip().lower() == 'q'
