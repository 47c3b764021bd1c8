"""The methods of `ActionDB`, one module a subject: each checks its arguments and runs one unit of work."""
