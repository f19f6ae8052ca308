"""The sweep beside other libraries, for parity and for speed."""
