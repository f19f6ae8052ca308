"""Circuits as objects: discovered from scores or by search, evaluated, compared, drawn."""
