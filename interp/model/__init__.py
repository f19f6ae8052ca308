"""A Hugging Face causal language model as the toolkit sees it: sites, shapes, tokens, graph."""
