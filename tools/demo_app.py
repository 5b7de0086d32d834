#!/usr/bin/env python
import argparse
from functools import cache, partial
from pathlib import Path

from mmhatnet.engine.cli import one_line_errors
from mmhatnet.finetune.results import read_result
from mmhatnet.weights.releases import list_shipped


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Serve a page to explore models: their predictions, cost '
        'and attention with other G1, G2 and sizes of images. The environment '
        'variables GRADIO_SERVER_NAME and GRADIO_SERVER_PORT set its address; '
        'by default, only this machine has access.'
    )
    parser.add_argument(
        'results',
        type=Path,
        nargs='*',
        help='folders of tools/finetune.py; the page opens with the first',
    )
    parser.add_argument(
        '--model',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a model besides the shipped ones: a name or config file, and a '
        'file, URL or hatnet://NAME; may be repeated',
    )
    return parser.parse_args()


def open_result(folder: Path) -> tuple[str, tuple[str, str], list[str]]:
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {folder}')
    result = read_result(folder)
    if not result:
        raise ValueError(
            f'{folder} has no result.json: run tools/finetune.py to its end'
        )
    files = str(folder / 'config.py'), str(folder / 'model.pth')
    images = [path for path in result['examples'] if Path(path).exists()]
    return folder.resolve().name, files, images


def main() -> None:
    args = parse_args()
    try:
        from demo.explorer import Explorer
        from demo.page import build_page, find_examples, serve
    except ModuleNotFoundError as error:
        raise ImportError(
            f'the page needs {error.name}: pip install -e ".[demo]"'
        ) from error
    given, examples = {}, []
    for folder in args.results:
        name, files, images = open_result(folder)
        given[name] = files
        examples += images
    given |= {Path(config).stem: (config, file) for config, file in args.model}
    models = {
        name: cache(partial(Explorer, *files)) for name, files in given.items()
    }
    for load in models.values():
        load()  # wrong ones end here, not on the page
    for name in list_shipped():
        models.setdefault(name, cache(partial(Explorer, name)))
    serve(build_page(models, examples + find_examples()))


if __name__ == '__main__':
    with one_line_errors():
        main()
