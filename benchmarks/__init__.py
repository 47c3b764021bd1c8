"""Compares the ledger's speed with a plain repository, written by hand: ``python -m benchmarks``."""
