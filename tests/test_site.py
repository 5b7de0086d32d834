"""The documentation site."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.slow
@pytest.mark.default_stack
def test_build(tmp_path):
    """Without a warning; with the README, the API and links that lead on."""
    pytest.importorskip('mkdocs')
    subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '-q', '-d', tmp_path],
        cwd=ROOT,
        check=True,
        env={**os.environ, 'REPOSITORY_URL': 'https://github.com/me/it'},
    )
    home = (tmp_path / 'index.html').read_text()
    assert 'href="inference/"' in home
    colab = 'https://colab.research.google.com/github/me/it/blob/main/docs/'
    assert f'href="{colab}tour.ipynb"' in home
    assert '../' not in home.partition('<article')[2].partition('</article')[0]
    # It makes the tables of models fit.
    assert '"../site.css"' in (tmp_path / 'model_zoo/index.html').read_text()
    assert (tmp_path / 'site.css').exists()
    api = tmp_path / 'api' / 'mmhatnet.models.hatnet' / 'index.html'
    assert 'grid_sizes' in api.read_text()
    assert ':class:' not in api.read_text()
    assert (tmp_path / 'search' / 'search_index.json').stat().st_size > 1e5
