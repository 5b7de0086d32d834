"""A web page to explore models with other G1, G2 and sizes of images."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio
import skimage

from mmhatnet.deploy.predict_files import summarize

from .explorer import Explorer

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


def find_examples() -> list[str]:
    photos = Path(skimage.__file__).parent / 'data'
    names = 'horse.png', 'rocket.jpg', 'coffee.png', 'astronaut.png'
    found = [photos / name for name in names]
    for folder in (
        'data/demo/ade/ADEChallengeData2016/images/validation',
        'data/tree_crowns/test',
    ):
        found += sorted(Path(folder).glob('*'))[:1]
    return [str(path) for path in found if path.exists()]


@contextmanager
def sentences(path: str) -> Iterator[None]:
    """Show the errors that users can cause, without the server's folders."""
    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error).replace(os.path.dirname(path) + os.sep, '')
        raise gradio.Error(text, print_exception=False) from error


def make_picture(label: str) -> list[gradio.Image | gradio.Markdown]:
    """Make a column with a prediction and its cost."""
    with gradio.Column():
        gradio.Markdown(f'**{label}**')
        picture = gradio.Image(
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
    models: Mapping[str, Callable[[], Explorer]], examples: Sequence[str]
) -> gradio.Blocks:
    """Build the page.

    Args:
        models (Mapping[str, Callable]): Name -> what loads the model; the page
            opens with the first.
        examples (Sequence[str]): Image files, of which the page opens with
            the first.
    """

    def choose(name):
        return *(n for g in models[name]().configured for n in g), 0

    def predict(name, path, *values):
        if not path:
            return None, '', None
        with sentences(path):
            result, picture, cost = models[name]().explore(
                path, values[:3], values[3:6], values[6]
            )
        return picture, f'**{summarize(result)}**\n\n{cost}', None

    def configured(name, path):
        return predict(name, path, *choose(name))[:2]

    # gradio finds the event by its type.
    def attend(event: gradio.SelectData, name, path, *values):
        with sentences(path):
            return models[name]().attend(
                path, event.index, values[:3], values[3:6], values[6]
            )

    first = next(iter(models))
    with gradio.Blocks(
        title='HAT-Net', analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        gradio.Markdown(TEXT)
        with gradio.Row():
            with gradio.Column():
                name = gradio.Dropdown(
                    list(models), value=first, label='model'
                )
                image = gradio.Image(
                    examples[0] if examples else None,
                    type='filepath',
                    sources=['upload', 'clipboard'],
                    label='image',
                )
                # Nothing decodes a huge image before its size is checked.
                image.preprocess = lambda file: file and file.path
                if examples:
                    gradio.Examples(list(examples), image)
            before = make_picture('as configured')
            after = make_picture('with the sliders below')
        sliders = make_sliders(choose(first))
        gradio.Markdown(
            '**attention of a point: click on the second prediction**'
        )
        attention = gradio.Plot(show_label=False, format='png')
        # Requests share the models and the cores.
        alone = dict(concurrency_id='models', concurrency_limit=1)
        setting = [name, image, *sliders]
        start = [page.load, image.change]
        run = dict(
            fn=predict,
            inputs=setting,
            outputs=[*after, attention],
            show_progress_on=after[0],
            **alone,
        )
        gradio.on(
            [*start, name.change], configured, [name, image], before, **alone
        )
        name.change(choose, name, sliders, **alone).success(**run)
        moved = [slider.input for slider in sliders]
        gradio.on([*start, *moved], trigger_mode='always_last', **run)
        after[0].select(attend, setting, attention, **alone)
    return page


def serve(page: gradio.Blocks) -> None:
    """Serve the page until Ctrl-C."""
    page.queue(max_size=20, api_open=False)
    page.launch(
        share=False,
        max_file_size='20mb',
        # The default fonts come from a server.
        theme=gradio.themes.Default(font='sans-serif', font_mono='monospace'),
    )
