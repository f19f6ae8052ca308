"""Editing knowledge: facts become low-rank changes of weights, applied, undone and judged."""
