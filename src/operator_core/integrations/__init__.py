"""Adapters of the gate to agent frameworks: one module for each, which imports its framework.

The ledger depends on none of them. Each module is thin: the gate proposes, waits, executes and records.
"""
