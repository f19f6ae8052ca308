"""Judging edits without a model: cases, answers, control questions, prompts and metrics."""
