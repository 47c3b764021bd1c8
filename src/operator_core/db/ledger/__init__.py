"""Units of work, one module a subject: plain functions of a connection that never commit."""
