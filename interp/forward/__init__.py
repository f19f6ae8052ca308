"""Forward passes taken apart: hooks, layers called singly, packed batches, caches, read-out."""
