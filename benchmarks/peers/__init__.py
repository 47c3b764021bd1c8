"""The ledger on PostgreSQL beside the job queues one would pick instead: ``python -m benchmarks.peers``."""
