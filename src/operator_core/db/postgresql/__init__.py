"""The runner for PostgreSQL, with batching, direct execution, the listener, and how a connection is made."""
