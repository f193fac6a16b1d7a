"""Converts a Keras model to a file with the trained codes."""
