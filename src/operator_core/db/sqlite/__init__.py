"""Runners for SQLite: files, databases in memory, and engines of a service."""
