import os
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list:
    """Read ``requirements/<name>.txt`` without comments."""
    lines = (
        (ROOT / 'requirements' / f'{name}.txt').read_text('utf-8').splitlines()
    )
    return [line for line in lines if line and line[0] not in '#-']


def add_mim_extension() -> dict:
    """Put configs, tools and model-index.yml where mim looks for them.

    In a wheel or an sdist, ``mmhatnet/.mim`` contains copies. In an editable
    installation it contains links, so that edits of a config take effect.
    ``tools/pages`` is left out of the copies, because it makes pages that only
    the repository has.

    onedl-mim takes the first file that pip lists, in alphabetical order, and
    uses the folder of this file as the folder of the package. This would be
    ``mmhatnet-*.dist-info``. Therefore a wheel has a second copy in
    ``_mmhatnet_mim``, which comes first.

    Returns:
        dict: More arguments for ``setup``.
    """
    if {'develop', 'editable_wheel'} & set(sys.argv):
        link = os.name != 'nt'
    elif {'sdist', 'bdist_wheel'} & set(sys.argv):
        link = False
    else:
        return {}
    mim = ROOT / 'mmhatnet' / '.mim'
    from_sdist = not (ROOT / 'configs').exists()  # it has the copies alone
    names = () if from_sdist else ('configs', 'tools', 'model-index.yml')
    if names:
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir()
    for name in names:
        source, target = ROOT / name, mim / name
        if link:
            target.symlink_to(os.path.relpath(source, mim))
        elif source.is_dir():
            ignore = shutil.ignore_patterns('__pycache__', 'pages')
            shutil.copytree(source, target, ignore=ignore)
        else:
            shutil.copy(source, target)
    if 'bdist_wheel' not in sys.argv:
        return {}
    patterns = ['*.yml', '**/*.yml', '**/*.py', '**/*.md', '**/*.sh']
    return dict(
        package_dir={'_mmhatnet_mim': 'mmhatnet/.mim'},
        package_data={
            '_mmhatnet_mim': patterns,
            'mmhatnet': [f'.mim/{pattern}' for pattern in patterns],
        },
    )


if __name__ == '__main__':
    extension = add_mim_extension()
    optional = requirements('optional') + requirements('timm')
    version = {}
    exec((ROOT / 'mmhatnet' / 'version.py').read_text('utf-8'), version)
    setup(
        name='mmhatnet',
        version=version['__version__'],
        description='HAT-Net, the backbone of "Vision Transformers with '
        'Hierarchical Attention", for OpenMMLab',
        long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        keywords='computer vision, backbone, vision transformer, '
        'segmentation, detection, classification',
        packages=[
            *find_packages(include=['mmhatnet*']),
            *extension.get('package_dir', []),
        ],
        **extension,
        include_package_data=True,
        python_requires='>=3.10',
        install_requires=requirements('runtime'),
        extras_require={
            'all': [*requirements('mminstall'), *optional],
            'onedl': requirements('mminstall'),
            'openmmlab': [*requirements('mminstall_openmmlab'), *optional],
            'tests': [*requirements('tests'), *optional],
            'optional': optional,
            'deploy': requirements('deploy'),
            'timm': requirements('timm'),
            'demo': requirements('demo'),
            'docs': requirements('docs'),
        },
        zip_safe=False,
    )
