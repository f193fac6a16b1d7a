"""Runs `.tflite` files, in a child process with limits."""
