"""Models as files that run without this package.

``graphs`` and ``export`` make the files; ``runtime`` is a module of its own
that runs them, and imports neither torch nor mm.
"""
