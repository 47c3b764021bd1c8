"""Compares the ledger on PostgreSQL with job queues: ``python -m benchmarks.peers``."""
