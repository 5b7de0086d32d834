"""The names of modules before they moved to folders; to be removed in 0.2."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType

MOVED = {
    f'mmhatnet.{old}': f'mmhatnet.{folder}.{new or old}'
    for folder, names in {
        'apis': 'hub inference timm_models zoo',
        'engine': 'agreement:checks checks cli collect_env elastic hooks '
        'launch:runner optim:layer_decay muon:optim precision:optim '
        'provenance resuming',
        'utils': 'atomic config stack',
        'weights': 'releases',
    }.items()
    for old, _, new in (name.partition(':') for name in names.split())
}
RUNTIME = 'mmhatnet.deploy.runtime'


class _Alias(Loader):
    """Gives a module under its old name, and the code that runs with -m."""

    def __init__(self, target: str) -> None:
        self.target = target

    def exec_module(self, module: ModuleType) -> None:
        self.warn(module.__name__)
        sys.modules[module.__name__] = import_module(self.target)

    def get_code(self, fullname: str) -> CodeType:
        """Code for runpy, which runs the module under its new name."""
        self.warn(fullname)
        run = f'run_module({self.target!r}, run_name="__main__")'
        return compile(
            f'from runpy import run_module; {run}', fullname, 'exec'
        )

    def warn(self, name: str) -> None:
        warnings.warn(
            f'{name} is now {self.target}; the old name will be removed in '
            'mmhatnet 0.2',
            FutureWarning,
            stacklevel=3,
        )


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        new = MOVED.get(fullname)
        if not new and (fullname + '.').startswith(RUNTIME + '.'):
            new = fullname.replace('.deploy', '', 1)
        found = find_spec(new) if new else None
        if not new or not found or not found.origin:
            return None
        return ModuleSpec(fullname, _Alias(new), origin=found.origin)


def support_old_names() -> None:
    """Let the old names of modules be imported, with a warning."""
    sys.meta_path.insert(0, _Finder())
