"""The notebook runs from its first cell to its last."""

import re

import pytest
from helpers import ROOT

NOTEBOOK = ROOT / 'docs' / 'tour.ipynb'


@pytest.mark.slow
@pytest.mark.default_stack
def test_tour(tmp_path):
    nbclient = pytest.importorskip('nbclient')
    nbformat = pytest.importorskip('nbformat')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get('outputs') for cell in notebook.cells)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        resources=dict(metadata=dict(path=str(tmp_path))),
    ).execute()
    outputs = [out for c in notebook.cells for out in c.get('outputs', ())]
    printed = ''.join(
        out.text for out in outputs if out.get('name') == 'stdout'
    )
    assert re.search(r'^cat 0\.\d+$', printed, re.M)
    assert printed.count('M multiply-accumulates') == 3
    assert "'mIoU': " in printed
    pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
    assert len(pictures) == 3
