"""The runners for SQLite: for files, databases in memory, and engines of a service."""
