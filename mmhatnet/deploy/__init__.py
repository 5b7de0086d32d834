"""Models as files that run without this package.

``graphs`` defines what a file computes, ``export`` traces and describes it,
``writer`` writes and verifies the file, and ``evaluation`` tests it with data.
``mmhatnet.runtime`` runs it, and imports neither torch nor mm.
"""
