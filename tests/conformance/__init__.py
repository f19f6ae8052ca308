"""A tiny random model of every causal language model class, and its checks against plain hooks."""
