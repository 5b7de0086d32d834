"""Models as files that run without this package.

``graphs`` has what a file computes, ``export`` and ``files`` make and verify
it, and ``evaluation`` tests it with data. ``runtime`` is a package of its own
that runs it, and imports neither torch nor mm.
"""
