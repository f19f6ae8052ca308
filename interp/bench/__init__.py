"""The sweep beside its peers, for parity and for speed."""
