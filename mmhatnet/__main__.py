"""Run a tool from the installed package: ``python -m mmhatnet train ...``."""

import runpy
import sys
from pathlib import Path

from .zoo import zoo_root


def find_tools() -> dict[str, Path]:
    """Find the Python programs in ``tools/``.

    Returns:
        dict[str, Path]: Name -> program; without those that only make pages
        of a clone.
    """
    paths = (zoo_root() / 'tools').rglob('*.py')
    return {
        path.stem: path
        for path in sorted(paths)
        if path.parent.name != 'pages'
    }


def main() -> None:
    """Run the tool that the first argument names, with the others."""
    tools = find_tools()
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name not in tools:
        asked = name in ('-h', '--help')
        print(
            f'usage: python -m mmhatnet TOOL [--help] ...\n\n'
            f'TOOL is one of {", ".join(tools)}.',
            file=sys.stdout if asked else sys.stderr,
        )
        sys.exit(0 if asked else f"no tool '{name}'")
    path = str(tools[name])
    sys.argv = [path, *sys.argv[2:]]
    runpy.run_path(path, run_name='__main__')


if __name__ == '__main__':
    main()
