"""A web page to explore models with other G1, G2 and sizes of images."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from traceback import clear_frames

import gradio
import numpy as np

from mmhatnet.deploy.predict_files import summarize

from .explorer import Exploration, Explorer

LARGEST = 32  # G1 and G2
SIZE = 1024  # pixels
TEXT = """# HAT-Net

G1 is the side of the windows of the local attention, and G2 that of the cells
that are pooled for the global attention, both in tokens. Neither has weights:
move them, or the size of the image, and compare with the configured setting.
Click on the second prediction to see the attention of that point.

These are small models, trained in hours on a CPU: they are often wrong;
`docs/evidence.md` says how often.
"""
# On a small screen, scroll the figure instead of making it unreadable.
STYLE = """
#attention .image-frame { overflow-x: auto; justify-content: safe center }
#attention img { min-width: 50rem }
"""
# A folder at the start of a word, or after a quotation mark.
FOLDER = re.compile(r'(?<![^\s\'"(])(?:[A-Z]:)?[\\/](?:[^\\/\s]+[\\/])+')


@contextmanager
def sentences() -> Iterator[None]:
    """Make messages on the page of the errors that users can cause."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        # Do not show folders of the server.
        text = FOLDER.sub('', str(error))
        clear_frames(error.__traceback__)  # they hold images
        raise gradio.Error(text, print_exception=False) from error


def show(
    explore: Callable[..., Exploration], *args
) -> tuple[np.ndarray | None, str]:
    """Make a picture and its text, or the sentence of an error.

    One setting can fail where the other does not.
    """
    try:
        with sentences():
            found = explore(*args)
    except gradio.Error as error:
        return None, error.message
    h, w = found.shape
    memory = ''
    if found.memory is not None:
        memory = f'{found.memory / 2**20:.0f} MiB above the weights, '
    return found.picture, (
        f'**{summarize(found.result)}**\n\n{1e3 * found.seconds:.0f} ms, '
        f'{memory}{found.operations / 1e9:.2f} G multiply-accumulates at '
        f'{w}x{h} pixels'
    )


def split(values: Sequence[float]) -> tuple[list[int], list[int], int]:
    """Split the values of the sliders to G1, G2 and size."""
    *grids, size = map(int, values)
    return grids[:3], grids[3:], size


def make_upload() -> gradio.Image:
    """Make an upload that passes on the path of an image.

    So gradio decodes no huge image before its size is checked.
    """
    image = gradio.Image(
        type='filepath',
        image_mode=None,  # another one would be converted
        sources=['upload', 'clipboard'],
        label='image',
    )

    def preprocess(payload):
        return payload and payload.path

    # gradio writes a file beside this one for each subclass.
    image.preprocess = preprocess
    return image


def make_picture(label: str) -> list[gradio.Image | gradio.Markdown]:
    """Make a column with a prediction and its cost."""
    with gradio.Column():
        gradio.Markdown(f'**{label}**')
        picture = gradio.Image(
            label=label,
            show_label=False,  # it would hide captions
            interactive=False,
            format='png',  # WebP ends at 16383 pixels
            buttons=[],
        )
        return [picture, gradio.Markdown()]


def make_sliders(start: Sequence[int]) -> list[gradio.Slider]:
    """Make the sliders of G1, G2 and the size."""
    sliders = []
    for kind, values in (('G1', start[:3]), ('G2', start[3:6])):
        with gradio.Row():
            for stage, value in enumerate(values):
                label = f'{kind} of stage {stage}'
                sliders.append(
                    gradio.Slider(
                        1, LARGEST, value, step=1, min_width=120, label=label
                    )
                )
    label = 'shorter side of the image in pixels; 0: as configured'
    return [*sliders, gradio.Slider(0, SIZE, 0, step=32, label=label)]


def build_page(
    models: Mapping[str, tuple[str, str | None]],
    examples: Sequence[str],
    shown: Mapping[str, str],
) -> gradio.Blocks:
    """Build the page.

    Args:
        models (Mapping[str, tuple]): Name -> model and checkpoint.
        examples (Sequence[str]): Image files.
        shown (Mapping[str, str]): Name -> a file that suits this model; the
            page opens with the first of them.
    """

    @cache
    def explorer(name):
        return Explorer(*models[name])

    def choose(name):
        with sentences():
            return *(n for g in explorer(name).configured for n in g), 0

    @lru_cache(maxsize=4)  # pictures can be large
    def configured(name, path):
        model = explorer(name)
        return model.explore(path, *model.configured, 0)

    def predict(name, path, *values):
        if not path:
            return None, '', None, '', None
        second = show(explorer(name).explore, path, *split(values))
        if values == choose(name):
            return *second, *second, None
        return *show(configured, name, path), *second, None

    # gradio finds the event by its type.
    def attend(event: gradio.SelectData, name, path, *values):
        with sentences():
            return explorer(name).attend(path, event.index, *split(values))

    first = next((name for name in shown if name in models), [*models][0])
    with gradio.Blocks(
        title='HAT-Net', analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        gradio.Markdown(TEXT)
        with gradio.Row():
            with gradio.Column():
                name = gradio.Dropdown(
                    list(models), value=first, label='model'
                )
                image = make_upload()
                if examples:
                    gradio.Examples(list(examples), image)
            pictures = make_picture('as configured')
            pictures += make_picture('with the sliders below')
        sliders = make_sliders(choose(first))
        gradio.Markdown(
            '**attention of a point: click on the second prediction**'
        )
        attention = gradio.Image(
            show_label=False,
            interactive=False,
            buttons=['download', 'fullscreen'],
            format='png',
            elem_id='attention',
        )
        run = dict(
            fn=predict,
            inputs=[name, image, *sliders],
            outputs=[*pictures, attention],
            show_progress_on=pictures[2],
        )
        name.change(choose, name, sliders).success(**run)
        image.change(**run)
        for slider in sliders:
            slider.input(**run, trigger_mode='always_last')
        pictures[2].select(attend, [name, image, *sliders], attention)
        page.load(lambda: shown.get(first), None, image)
    return page


def serve(
    models: Mapping[str, tuple[str, str | None]],
    examples: Sequence[str],
    shown: Mapping[str, str],
    host: str,
    port: int | None,
) -> None:
    """Serve the page of :func:`build_page` until Ctrl-C."""
    page = build_page(models, examples, shown)
    page.queue(max_size=20, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size='20mb',
        allowed_paths=list(examples),
        css=STYLE,
        # The default fonts come from a server.
        theme=gradio.themes.Default(font='sans-serif', font_mono='monospace'),
    )
