"""Finds, writes and reads back the trained codes in a file."""
