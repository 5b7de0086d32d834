"""Print the versions for a bug report: ``python -m mmhatnet collect_env``."""

from importlib import import_module

from mmengine.utils.dl_utils import collect_env as collect_base_env

from ..operators import NAME, describe_operators
from ..utils.stack import describe_versions


def collect_env() -> dict[str, str]:
    """Collect the versions of the machine, its libraries and mm.

    Returns:
        dict[str, str]: As mm's functions of this name.
    """
    operators = describe_operators()
    try:
        import_module(NAME)
    except ImportError as error:
        operators += f', which cannot be imported: {error}'
    return {
        **collect_base_env(),
        **describe_versions(),
        'operators of mmcv.ops': operators,
    }


def main() -> None:
    """Print them, one in a line."""
    for name, value in collect_env().items():
        print(f'{name}: {value}')


if __name__ == '__main__':
    main()
