import ast
import re
import shutil
import sys
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import DEMOS, ROOT, import_page, run_tool
from packaging.version import Version

import mmhatnet
from mmhatnet.__main__ import find_tools
from mmhatnet.operators import describe_operators
from mmhatnet.utils import stack
from mmhatnet.utils.moved import MOVED, RUNTIME

LIBRARIES = ('mmpretrain', 'mmseg', 'mmdet')


@pytest.mark.slow
@pytest.mark.parametrize('library', LIBRARIES)
def test_import_on_demand(library):
    """Building the backbone in mm imports mmhatnet, and no other library."""
    if library == 'mmdet' and describe_operators() != 'mmcv':
        pytest.skip('mmdet needs operators before it is imported')
    code = f"""
import importlib, sys
from mmengine.registry import init_default_scope
library = {library!r}
importlib.import_module(library + '.models')
MODELS = importlib.import_module(library + '.registry').MODELS
init_default_scope(library)
before = set(sys.modules)
assert 'mmhatnet' not in before
model = MODELS.build(dict(type='mmhatnet.HATNet', arch='tiny'))
assert type(model).__module__ == 'mmhatnet.models.hatnet'
new = {{name.split('.')[0] for name in set(sys.modules) - before}}
print('imported:', *sorted(new & {set(LIBRARIES)!r}))
"""
    output = run_tool('-c', code)
    assert output.splitlines()[-1].strip() == 'imported:'


class TestVersions:
    @pytest.mark.parametrize(
        ('changes', 'kind', 'message'),
        [
            ({}, None, ''),
            # Libraries of tasks are optional, and mmcv-lite is enough.
            ({'onedl-mmdetection': '', 'onedl-mmsegmentation': ''}, None, ''),
            ({'onedl-mmcv': '', 'mmcv-lite': '2.2.0'}, None, ''),
            ({'onedl-mmcv': '99.0'}, UserWarning, 'with onedl-mmcv up to'),
            ({'mmcv': '2.1.0'}, UserWarning, 'overwrite each other'),
            ({'onedl-mmcv': ''}, ImportError, 'onedl-mmcv>=.*--stack onedl'),
            ({'onedl-mmcv': '2.3.0'}, ImportError, r'2\.3\.0 is installed'),
            ({'onedl-mmdetection': '3.4.0'}, ImportError, 'mmdetection>='),
            ({'torch': '2.0.1'}, ImportError, r'torch>=.*pytorch\.org'),
            ({'torch': ''}, ImportError, r'torch>=.*pytorch\.org'),
        ],
    )
    def test_installed(self, changes, kind, message, monkeypatch, recwarn):
        """The oldest versions pass; changes may raise or warn."""
        found = {
            x: version for x, version, _ in stack.FAMILIES['onedl'].values()
        }
        found |= {'torch': stack.TORCH[1]} | changes
        monkeypatch.setattr(
            stack,
            '_installed',
            lambda name: Version(found[name]) if found.get(name) else None,
        )
        if kind is ImportError:
            with pytest.raises(ImportError, match=message):
                stack.check_versions()
            return
        stack.check_versions()
        assert len(recwarn) == bool(kind)
        for warning in recwarn:
            assert re.search(message, str(warning.message))

    def test_absent_operators_name_the_remedy(self):
        for name, message in (
            ('mmcv._ext', 'set MMHATNET_OPERATORS=torchvision'),
            ('other', '^undefined symbol$'),
        ):
            wrapped = stack.explain_missing_operators()
            with pytest.raises(ImportError, match=message), wrapped:
                raise ImportError('undefined symbol', name=name)

    @pytest.mark.parametrize('family', stack.FAMILIES)
    def test_set_up_installs_what_is_tested(self, family):
        text = (ROOT / 'requirements' / f'tested_{family}.txt').read_text()
        pins = dict(re.findall(r'^([\w-]+)==(.+)$', text, re.M))
        for name, oldest, newest in stack.FAMILIES[family].values():
            assert Version(oldest) <= Version(pins[name]) <= Version(newest)
        _, oldest, newest = stack.TORCH
        assert Version(oldest) <= Version(pins['torch']) <= Version(newest)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel of the sdist of a clean clone, and the clone's files."""
    if not (ROOT / '.git').exists() or not shutil.which('git'):
        pytest.skip('this is not a clone, and wheels are built from one')
    folder = tmp_path_factory.mktemp('wheel')
    files = run_tool('git', 'ls-files').splitlines()
    for name in files:
        target = folder / 'clone' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    code = 'import setuptools.build_meta as b; b.build_sdist("..")'
    run_tool('-c', code, cwd=folder / 'clone')
    (source,) = folder.glob('*.tar.gz')
    run_tool(
        *(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-w', folder),
        *('--no-build-isolation', source),
    )
    (path,) = folder.glob('*.whl')
    if find_spec('twine'):
        run_tool('-m', 'twine', 'check', '--strict', *folder.glob('*.*'))
    return zipfile.ZipFile(path), files


class TestWheel:
    def test_files(self, wheel):
        """Configs and tools beside the package, and nothing else."""
        names = set(wheel[0].namelist())
        for name in wheel[1]:
            if re.match(r'(configs|tools(?!/pages))/|model-index.yml', name):
                assert f'mmhatnet/.mim/{name}' in names
                # For onedl-mim: see setup.py.
                assert f'_mmhatnet_mim/{name}' in names
            assert name in names or not name.startswith('mmhatnet/')
        for name in names:
            assert re.match(r'mmhatnet(/|-\d)|_mmhatnet_mim/', name), name
            assert not re.search(r'__pycache__|\.pyc$|tests/|pages/', name)

    def test_forces_neither_family(self, wheel):
        names = wheel[0].namelist()
        (metadata,) = (name for name in names if name.endswith('METADATA'))
        text = wheel[0].read(metadata).decode()
        required = re.findall(r'^Requires-Dist: (.*)$', text, re.M)
        ours = [r for r in required if 'mm' in r.split(';')[0]]
        assert all('extra ==' in r for r in ours)
        for family, packages in stack.FAMILIES.items():
            of_family = [r for r in required if f'extra == "{family}"' in r]
            for name, oldest, _ in packages.values():
                pattern = re.compile(rf'{name}\b.*>={re.escape(oldest)}')
                assert any(map(pattern.match, of_family)), (family, name)


def test_mim_finds_configs_of_an_editable_install():
    location = distribution('mmhatnet').read_text('direct_url.json') or ''
    if '"editable": true' not in location:
        pytest.skip('mmhatnet is not installed as editable')
    mim = ROOT / 'mmhatnet' / '.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (mim / name).resolve() == ROOT / name


def test_clone_without_installation(tmp_path):
    """PYTHONPATH is enough, also for configs that inherit ours."""
    clone = tmp_path / 'clone'
    ignored = shutil.ignore_patterns('.mim', '__pycache__')
    for name in ('mmhatnet', 'configs', 'tools'):
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    shutil.copy(ROOT / 'model-index.yml', clone)
    base = f"_base_ = 'mmhatnet::demo/{DEMOS['Semantic Segmentation']}.py'"
    (tmp_path / 'mine.py').write_text(base)
    (tmp_path / 'sitecustomize.py').write_text(UNINSTALLED)
    tool = clone / 'tools' / 'analysis_tools' / 'get_flops.py'
    env = dict(cwd=tmp_path, PYTHONPATH=f'{clone}:{tmp_path}')
    assert 'Norms, in addition' in run_tool(tool, 'mine.py', **env)
    code = 'import mmhatnet; print(mmhatnet.__file__, mmhatnet.list_models())'
    output = run_tool('-c', code, **env)
    assert output.startswith(f'{clone}/mmhatnet/__init__.py [')


UNINSTALLED = """
import sys
from importlib import metadata

finders = [x for x in sys.meta_path if 'editable' not in str(x)]
sys.meta_path[:] = finders
from_name = metadata.Distribution.from_name


def hidden(name):
    if name == 'mmhatnet':
        raise metadata.PackageNotFoundError(name)
    return from_name(name)


metadata.Distribution.from_name = hidden
"""


def test_text_is_utf8():
    """The encoding of a system can be any other."""
    folders = ROOT / 'mmhatnet', ROOT / 'tools'
    paths = [path for folder in folders for path in folder.rglob('*.py')]
    for path in [*paths, ROOT / 'setup.py', ROOT / 'hubconf.py']:
        for call in ast.walk(ast.parse(path.read_text('utf-8'))):
            text = ast.unparse(call) if isinstance(call, ast.Call) else ''
            if re.match(r'open\(|.*\.(read|write)_text\(', text):
                encoded = "'utf-8'" in text or re.search(
                    "'[rwxa+]*b[+]?'", text
                )
                assert encoded, f'{path}:{call.lineno} has no encoding'


@pytest.mark.default_stack
def test_tools_without_a_clone(tmp_path):
    output = run_tool('-m', 'mmhatnet', cwd=tmp_path)
    shown = re.findall(r'^  (\w+) +[A-Z]\w+ .{8,}$', output, re.M)
    assert sorted(shown) == sorted(find_tools())
    assert {'export', 'infer', 'train', 'collect_env'} <= {*shown}
    assert max(map(len, output.splitlines())) < 80
    assert 'evidence' not in shown
    output = run_tool('-m', 'mmhatnet', 'collect_env', cwd=tmp_path)
    assert f'mmhatnet: {mmhatnet.__version__}' in output
    output = run_tool('-m', 'mmhatnet', 'fly', code=1, cwd=tmp_path)
    assert "no tool 'fly'" in output


@pytest.mark.default_stack
def test_types():
    pytest.importorskip('mypy')
    run_tool('-m', 'mypy', '--cache-dir', Path(sys.prefix, '.mypy_cache'))


@pytest.mark.default_stack
def test_dockerfiles():
    hadolint = shutil.which('hadolint', path=str(Path(sys.executable).parent))
    if not hadolint:
        pytest.skip('hadolint is not installed')
    run_tool(hadolint, *sorted((ROOT / 'docker').iterdir()))


def test_folders_import_downwards():
    plan = import_page('architecture')
    imports = plan.find_imports()
    floors = plan.find_floors(imports)  # raises CycleError
    assert not imports['runtime']  # it can be copied
    assert floors['weights'] < floors['models'] < floors['engine']
    del imports['finetune']  # a command over all others
    assert not {'analysis', 'finetune'} & set().union(*imports.values())


@pytest.mark.parametrize(
    ('old', 'new'), [*MOVED.items(), (RUNTIME, 'mmhatnet.runtime')]
)
def test_old_names(old, new):
    if new.endswith(('timm_models', '.hub')):
        pytest.importorskip('timm')
        pytest.importorskip('huggingface_hub')
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f'{new}; the old name'):
        found = import_module(old)
    assert found is sys.modules[new]
    assert found.__name__ == found.__spec__.name == new


def test_old_name_of_a_command():
    output = run_tool('-m', 'mmhatnet.collect_env')
    assert 'MMEngine' in output
    assert 'mmhatnet.engine.collect_env; the old name' in output


def test_sizes():
    """A file is read in one go, and the README on two screens."""
    lengths = {
        path: len(path.read_text('utf-8').splitlines())
        for path in (*ROOT.glob('mmhatnet/**/*.py'), ROOT / 'README.md')
    }
    assert lengths.pop(ROOT / 'README.md') <= 150
    assert max(lengths.values()) <= 450


@pytest.mark.parametrize('name', ['hatnet', 'windows'])
def test_equations_do_not_ask_for_graphs(name):
    """Forms decide that."""
    code = (ROOT / 'mmhatnet' / 'models' / f'{name}.py').read_text('utf-8')
    questions = 'makes_graph', 'exports', 'is_transformed', 'copy_for_export'
    assert not [word for word in questions if word in code]
