"""The trained codes in a file: found, written, read back."""
