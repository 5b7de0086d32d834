"""Hooks of mkdocs: the README as first page, the API, and links to files."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmhatnet'
ROLE = re.compile(
    r':(?:class|func|meth|mod):<code>(?:~[^<]*\.)?([^<]*)</code>'
)
COLAB = 'colab.research.google.com/github'
LINK = re.compile(r'(?<!!)\[([^][]+)\]\(([^)#:]+)(#[^)]*)?\)')


def list_modules() -> list[str]:
    """List the modules that have something public."""
    paths = sorted(PACKAGE.rglob('*.py'))
    names = [
        '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for path in paths
        if '.mim' not in path.parts and path.stat().st_size > 100
    ]
    return [name.removesuffix('.__init__') for name in names]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ lacks."""
    readme = (ROOT / 'README.md').read_text()
    readme = re.sub(r'\]\((?!docs/|https?:|#)', '](../', readme)
    pages = {'index.md': readme.replace('](docs/', '](')}
    modules = list_modules()
    links = [f'- [{name}]({name}.md)\n' for name in modules]
    pages['api/index.md'] = f'# API\n\n{"".join(links)}'
    for name in modules:
        pages[f'api/{name}.md'] = f'# {name}\n\n::: {name}\n'
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Let links that leave docs/ lead to the repository, if it is known.

    Those to notebooks open them in Colab.
    """
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def replace(match: re.Match) -> str:
        text, target, anchor = match.groups()
        path = (folder / target).resolve()
        repository = config.repo_url or ''
        if path.suffix == '.ipynb' and 'github.com' in repository:
            base = repository.replace('github.com', COLAB)
            return f'[{text}]({base}/blob/main/{path.relative_to(ROOT)})'
        if path.is_relative_to(config.docs_dir):
            return match[0]
        name = path.relative_to(ROOT)
        if not path.exists():
            raise FileNotFoundError(f'{page.file.src_uri} links to no {name}')
        if config.repo_url:
            return (
                f'[{text}]({config.repo_url}/blob/main/{name}{anchor or ""})'
            )
        return text

    return LINK.sub(replace, markdown)


def on_page_content(
    html: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Replace the markup of docstrings that Markdown does not know."""
    return ROLE.sub(r'<code>\1</code>', html)
