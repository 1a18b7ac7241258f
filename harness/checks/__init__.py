"""Clause decisions, one module per clause group, each over the history alone."""
