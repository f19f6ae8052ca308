"""Interventions as data, and the engines that carry them out."""
