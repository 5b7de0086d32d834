"""Train and test the rows of the paper's tables: see tools/reproduce.py."""
