"""What the ledger costs, measured beside what one would write instead: ``python -m benchmarks``."""
