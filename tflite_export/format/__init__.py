"""The file format: bytes to records and back. It decides nothing."""
