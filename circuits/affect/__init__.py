"""Vectors of any set of emotions: their map, projections of single tokens, and choices."""
