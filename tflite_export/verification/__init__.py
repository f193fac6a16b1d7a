"""Compares a file with the model it was made from."""
