"""Run a program that imports mmdet first, with our operators.

For example ``python -m mmhatnet.operators mmdetection/tools/test.py ...``.
"""

import os
import runpy
import sys

if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit('usage: python -m mmhatnet.operators PROGRAM.py ...')
    # Importing the package has installed them.
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name='__main__')
