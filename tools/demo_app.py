#!/usr/bin/env python
import argparse
from contextlib import suppress
from pathlib import Path

from mmhatnet.engine.cli import one_line_errors
from mmhatnet.finetune.results import read_result
from mmhatnet.weights.releases import list_shipped


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Serve a page to explore models: their predictions, cost '
        'and attention with other G1, G2 and sizes of images.'
    )
    add = parser.add_argument
    add(
        'results',
        type=Path,
        nargs='*',
        help='folders of tools/finetune.py; the page opens with the first',
    )
    add(
        '--model',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a model besides the shipped ones: a name or config file, and a '
        'file, URL or hatnet://NAME; may be repeated',
    )
    add(
        '--host',
        default='127.0.0.1',
        help='address to listen on; 0.0.0.0 gives other machines access '
        '(default: 127.0.0.1, this machine alone)',
    )
    add('--port', type=int, help='port (default: a free one from 7860 on)')
    return parser.parse_args()


def find_examples() -> tuple[list[str], dict[str, str]]:
    shapes = Path('data/demo/ade/ADEChallengeData2016/images/validation')
    trees = Path('data/tree_crowns/test')
    suited = {
        # The model is right about this image.
        'shape-segmentor': next(shapes.glob('*_00000046.jpg'), None),
        'tree-detector': next(iter(sorted(trees.glob('*'))), None),
    }
    examples = []
    with suppress(ImportError):
        import skimage

        folder = Path(skimage.__file__).parent / 'data'
        names = 'horse.png', 'rocket.jpg', 'coffee.png', 'astronaut.png'
        examples = [folder / name for name in names]
        examples = [path for path in examples if path.exists()]
        suited['cifar10-classifier'] = next(iter(examples), None)
    shown = {name: str(path) for name, path in suited.items() if path}
    return list(dict.fromkeys([*shown.values(), *map(str, examples)])), shown


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
        from demo.page import serve
    except ModuleNotFoundError as error:
        raise ImportError(
            f'the page needs {error.name}: pip install -e ".[demo]"'
        ) from error
    models = {name: (name, None) for name in list_shipped()}
    models |= {
        Path(config).stem: (config, file) for config, file in args.model
    }
    examples, shown = find_examples()
    for folder in reversed(args.results):
        name, files, images = open_result(folder)
        models = {name: files, **models}
        shown = ({name: images[0]} if images else {}) | shown
        examples = [*images, *examples]
    for model, checkpoint in models.values():
        if checkpoint:  # of the user: wrong ones end here, not on the page
            Explorer(model, checkpoint)
    serve(models, examples, shown, args.host, args.port)


if __name__ == '__main__':
    with one_line_errors():
        main()
