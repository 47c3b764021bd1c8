"""The tables, the conversion of their rows into models, SQL functions, planner hints, savepoints, errors, and the unit of work."""
