"""Tables, conversion of rows to models, SQL functions, planner hints, savepoints, errors, and the unit of work."""
