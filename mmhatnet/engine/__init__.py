"""Training and testing: the runner, its hooks, checks and options."""
