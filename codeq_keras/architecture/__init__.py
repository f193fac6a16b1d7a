"""A model's kernels, its calls, and copies of it."""
