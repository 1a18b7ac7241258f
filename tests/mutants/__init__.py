"""Executors that each break one clause on purpose; the suite must fail exactly that clause."""
