"""The methods of `ActionDB`, one module per subject: each checks its arguments and runs one unit of work."""
