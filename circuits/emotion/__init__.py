"""Emotion circuits: texts that evoke emotions, and what is found and done with them."""
