"""Where activations are rounded to int8, and how."""
