"""Run a tool from the installed package: ``python -m mmhatnet train ...``."""

import ast
import re
import runpy
import sys
from pathlib import Path
from textwrap import shorten

from .apis.zoo import zoo_root

ENGINE = Path(__file__).with_name('engine')


def find_tools() -> dict[str, Path]:
    """Find the Python programs in ``tools/``, and ``collect_env``.

    Returns:
        dict[str, Path]: Name -> program. Programs that only make the pages of
        a clone are left out, and so are modules that programs import.
    """
    paths = [
        path
        for path in sorted((zoo_root() / 'tools').rglob('*.py'))
        if path.parent.name != 'pages'
        and not path.with_name('__init__.py').exists()
    ]
    return {path.stem: path for path in [*paths, ENGINE / 'collect_env.py']}


def describe_tool(path: Path) -> str:
    """Find out what a tool is for, without running it.

    Args:
        path (Path): The program.

    Returns:
        str: The beginning of the description in its ``--help`` or, if it has
        none, of its docstring, at most 58 characters.
    """
    tree = ast.parse(path.read_text(encoding='utf-8'))
    found = [ast.get_docstring(tree)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(
            '(ArgumentParser|make_parser)$', ast.unparse(node.func)
        ):
            values = [k.value for k in node.keywords if k.arg == 'description']
            found = [ast.literal_eval(v) for v in (*node.args, *values)]
    text = re.split('[:.] ', found[0] or '')[0].rstrip('.')
    return shorten(text, 58, placeholder=' ...')


def main() -> None:
    """Run the tool that the first argument names, with the others."""
    tools = find_tools()
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name not in tools:
        asked = name in ('-h', '--help')
        width = max(map(len, tools))
        lines = [f'  {n:{width}}  {describe_tool(tools[n])}' for n in tools]
        print(
            'usage: python -m mmhatnet TOOL [--help] ...\n',
            *lines,
            sep='\n',
            file=sys.stdout if asked else sys.stderr,
        )
        sys.exit(0 if asked else f"no tool '{name}'")
    path = tools[name]
    sys.argv = [str(path), *sys.argv[2:]]
    if path.parent == ENGINE:
        runpy.run_module(f'mmhatnet.engine.{name}', run_name='__main__')
    else:
        sys.path.insert(0, str(path.parent))  # as Python does for scripts
        runpy.run_path(str(path), run_name='__main__')


if __name__ == '__main__':
    main()
