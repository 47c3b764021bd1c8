"""The runner for PostgreSQL, with batching, direct execution, the listener, and connection setup."""
