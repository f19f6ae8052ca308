"""What goes in: prompts, prompt pairs, splits, records of files, and the shipped data sets."""
