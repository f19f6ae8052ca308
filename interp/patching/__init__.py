"""Activation patching: what the metric becomes when one activation is replaced."""
