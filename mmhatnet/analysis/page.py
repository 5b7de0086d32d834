"""A web page to explore models with other G1, G2 and sizes of images.

``tools/demo_app.py`` serves it. This module alone imports gradio.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import gradio

from ..deploy.images import summarize
from .explorer import Exploration, Explorer

LARGEST = 32  # G1 and G2
SIZES = 32, 1024  # pixels
TEXT = """# HAT-Net

G1 is the side of the windows of the local attention, and G2 that of the cells
that are pooled for the global attention, both in tokens. Neither has weights:
move them, or the size of the image, and see what changes. Click on the
prediction to see the attention of that point.
"""


@contextmanager
def _sentences() -> Iterator[None]:
    """Make messages on the page of the errors that users can cause."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise gradio.Error(str(error), print_exception=False) from error


def _upload() -> gradio.Image:
    """Make an image whose errors are sentences."""
    image = gradio.Image(
        type='filepath', sources=['upload', 'clipboard'], label='image'
    )
    read = image.preprocess

    def preprocess(payload):
        try:
            return read(payload)
        except OSError as error:  # Pillow's, of a damaged file
            raise gradio.Error(
                'the file cannot be read as an image', print_exception=False
            ) from error

    # gradio writes a file beside this one for each subclass.
    image.preprocess = preprocess
    return image


def _split(values: Sequence[float]) -> tuple[list[int], list[int], int]:
    """Split the values of the sliders to G1, G2 and size."""
    *grids, size = map(int, values)
    return grids[:3], grids[3:], size


def _describe(found: Exploration) -> str:
    h, w = found.shape
    memory = ''
    if found.memory is not None:
        memory = f'{found.memory / 2**20:.0f} MiB beside the weights, '
    return (
        f'**{summarize(found.result)}**\n\n{1e3 * found.seconds:.0f} ms, '
        f'{memory}{found.operations / 1e9:.2f} G multiply-accumulates at '
        f'{w}x{h} pixels'
    )


def build_page(
    models: Mapping[str, tuple[str, str | None]], examples: Sequence[str]
) -> gradio.Blocks:
    """Build the page.

    Args:
        models (Mapping[str, tuple]): Name -> model and checkpoint.
        examples (Sequence[str]): Image files.
    """

    @cache
    def explorer(name: str) -> Explorer:
        return Explorer(*models[name])

    def choose(name):
        with _sentences():
            model = explorer(name)
        return *(n for grid in model.configured for n in grid), model.size

    def predict(name, path, *values):
        if not path:
            return None, '', None
        with _sentences():
            found = explorer(name).explore(path, *_split(values))
        return found.picture, _describe(found), None

    # gradio finds the event by its type.
    def attend(event: gradio.SelectData, name, path, picture, *values):
        h, w = picture.shape[:2]
        point = event.index[0] / w, event.index[1] / h
        with _sentences():
            return explorer(name).attend(path, point, *_split(values))

    first = next(iter(models))
    start = choose(first)
    with gradio.Blocks(title='HAT-Net', analytics_enabled=False) as page:
        gradio.Markdown(TEXT)
        with gradio.Row():
            with gradio.Column():
                name = gradio.Dropdown(
                    list(models), value=first, label='model'
                )
                image = _upload()
                if examples:
                    gradio.Examples(list(examples), image)
                sliders = []
                for kind, values in (('G1', start[:3]), ('G2', start[3:6])):
                    with gradio.Row():
                        sliders += [
                            gradio.Slider(
                                1,
                                LARGEST,
                                value,
                                step=1,
                                min_width=120,
                                label=f'{kind} of stage {stage}',
                            )
                            for stage, value in enumerate(values)
                        ]
                sliders.append(
                    gradio.Slider(
                        *SIZES,
                        start[6],
                        step=1,
                        label='shorter side of the image in pixels',
                    )
                )
            with gradio.Column():
                picture = gradio.Image(
                    label='prediction',
                    show_label=False,
                    interactive=False,
                    buttons=[],
                )
                cost = gradio.Markdown()
                attention = gradio.Image(
                    label='attention of a point: click on the prediction',
                    interactive=False,
                )
        run = dict(
            fn=predict,
            inputs=[name, image, *sliders],
            outputs=[picture, cost, attention],
            show_progress_on=picture,
        )
        name.change(choose, name, sliders).success(**run)
        image.change(**run)
        for slider in sliders:
            slider.input(**run, trigger_mode='always_last')
        picture.select(attend, [name, image, picture, *sliders], attention)
    return page


def serve(
    models: Mapping[str, tuple[str, str | None]],
    examples: Sequence[str],
    host: str = '127.0.0.1',
    port: int | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        models (Mapping[str, tuple]): As for :func:`build_page`.
        examples (Sequence[str]): As for :func:`build_page`.
        host (str): The address to listen on. Defaults to '127.0.0.1', this
            machine alone.
        port (int, optional): Defaults to None, a free one from 7860 on.

    Raises:
        OSError: If the port is not free.
    """
    build_page(models, examples).launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size='20mb',
        allowed_paths=list(examples),
        # The default fonts are those of a server.
        theme=gradio.themes.Default(font='sans-serif', font_mono='monospace'),
    )
