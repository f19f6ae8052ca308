"""circuits: what is found with `interp`, and the command line."""
