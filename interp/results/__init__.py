"""What comes out: sealed run folders that resume, pages, and the look of figures."""
