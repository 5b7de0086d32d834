"""Train and test the models of the paper's tables, and compare with print."""
