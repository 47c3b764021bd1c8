"""Units of work, one module per subject: plain functions of a connection that never commit."""
